"""R-CNNs on ResNet-50 as Rank & Sort Loss has them (Oksuz et al., ICCV 2021).

``faster``, ``mask`` and ``cascade`` rank; ``faster_ce`` and ``mask_ce`` are the
baselines on random samples. Detections need a score of .40, those of the baselines of .05.
"""

from .rcnn import box_heads, faster_rcnn, fpn, rpn, with_cross_entropy, with_masks, with_stages
from .resnet_50 import bottom_up

CHANNELS = 256

faster = faster_rcnn(
    fpn(bottom_up, CHANNELS),
    rpn(CHANNELS, anchor_scale=8, before_nms=[2000, 1000], after_nms=[1000, 1000]),
    box_heads(CHANNELS, features=1024, sampling_ratio=0, score_thresh=0.4),
)
faster.proposal_generator.assigner.low_quality_iou = 0.3

mask = with_masks(faster, num_conv=4)
# An object takes its best proposal from another object that this overlaps more, if their IoU is .5.
mask.roi_heads.assigner.low_quality = "object"
mask.roi_heads.assigner.low_quality_iou = 0.5
cascade = with_stages(faster)
faster_ce = with_cross_entropy(faster)
mask_ce = with_cross_entropy(mask)
for model in (faster_ce, mask_ce):
    model.roi_heads.box_predictor.test_score_thresh = 0.05
