"""R-CNNs with ResNet-50, as in the paper of Rank & Sort Loss (Oksuz et al., ICCV 2021).

``faster``, ``mask`` and ``cascade`` use Rank & Sort Loss and a score threshold of .40.
``faster_ce`` and ``mask_ce`` are the baselines: cross entropy on random samples, with a score
threshold of .05. ``cascade_ce`` is the baseline of ``cascade``, as in Cai and Vasconcelos (CVPR
2018): later stages have smaller loss weights and larger box-coder weights.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.meta_arch import GeneralizedRCNN

from ..criteria import cross_entropy, rank_sort
from .backbones import IMAGENET_RGB, fpn, resnet
from .rcnn import RPN_WEIGHTS, box_heads, rpn, with_cross_entropy, with_masks, with_stages

faster = L(GeneralizedRCNN)(
    backbone=fpn(resnet(first=2), channels=256, top_block=L(LastLevelMaxPool)()),
    proposal_generator=rpn(
        256, rank_sort(), anchor_scale=8, before_nms=[2000, 1000], after_nms=[1000, 1000]
    ),
    roi_heads=box_heads(256, rank_sort(), features=1024, sampling_ratio=0, score_thresh=0.4),
    **IMAGENET_RGB,
)
faster.proposal_generator.assigner.low_quality_iou = 0.3

mask = with_masks(faster, num_conv=4)
# Low-quality matches: an object gets its best proposal if their IoU is at least .5, even if the
# proposal overlaps another object more.
mask.roi_heads.assigner.low_quality = "object"
mask.roi_heads.assigner.low_quality_iou = 0.5
cascade = with_stages(faster)
faster_ce = with_cross_entropy(faster, cross_entropy(RPN_WEIGHTS), cross_entropy())
mask_ce = with_cross_entropy(mask, cross_entropy(RPN_WEIGHTS), cross_entropy())
for model in (faster_ce, mask_ce):
    model.roi_heads.box_predictor.test_score_thresh = 0.05
cascade_ce = with_stages(faster_ce)
cascade_ce.roi_heads.loss_weights = [1.0, 0.5, 0.25]
for i, predictor in enumerate(cascade_ce.roi_heads.box_predictors):
    weights = [(i + 1) * weight for weight in (10.0, 10.0, 5.0, 5.0)]
    predictor.box2box_transform.weights = weights
    cascade_ce.roi_heads.criteria[i] = cross_entropy(weights)
