"""Short runs of R-CNNs on the shapes at 128 px: about a minute on two CPU cores.

325 iterations x 8 images = 2.6 epochs of 1,000 images; a run on the default shapes has 320, because
it drops the 20 training images without objects. Mask R-CNN uses ``dataloader_masks`` and the
shorter ``train_masks``, because its steps take longer.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .models.backbones import resnet_18_half
from .models.rcnn_r18 import cascade, faster, faster_ce, faster_plus, mask, mask_ce
from .shapes import NUM_CLASSES, build_dataloader, length, optimizer, schedule, train

dataloader = build_dataloader(size=128)
dataloader_masks = build_dataloader(size=128, masks=True)

train.checkpointer.period = 165
train.update(length(2.6))
train_masks = deepcopy(train)
train_masks.update(length(2.2))

# Box heads have no normalization: with a shorter warm-up most of their ReLUs die. Halfway through
# the run they have only begun to learn, and a cosine schedule would slow them down from there.
_steps = L(MultiStepParamScheduler)(values=[1.0, 0.2], milestones=[4], num_updates=5)
lr_multiplier = schedule(iterations=75, scheduler=_steps)

LEVELS, STRIDES = ["p2", "p3", "p4", "p5"], [4, 8, 16, 32]

for model in (faster, faster_ce, faster_plus, mask, mask_ce, cascade):
    model.backbone.bottom_up = resnet_18_half(first=2)
    model.backbone.in_features = model.backbone.bottom_up.out_features
    model.backbone.norm = "GN"
    # To save time: no proposals at stride 4, coarse pooling, few proposals, masks and detections.
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.in_features = [*LEVELS[1:], "p6"]
    rpn.anchor_generator.strides = [*STRIDES[1:], 64]
    rpn.anchor_generator.sizes = [[16], [32], [64], [128]]
    rpn.pre_nms_topk = [250, 250]
    rpn.post_nms_topk = [48, 64]
    heads.num_classes = NUM_CLASSES
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.test_topk_per_image = 50
    poolers = [heads.box_pooler]
    heads.box_pooler.output_size = 5
    for head in heads.get("box_heads") or [heads.box_head]:
        head.input_shape.update({"height": 5, "width": 5})
    heads.box_in_features = LEVELS
    if "mask_pooler" in heads:
        heads.mask_in_features = LEVELS
        heads.max_mask_rois = 32
        heads.mask_pooler.output_size = 7
        poolers.append(heads.mask_pooler)
    for pooler in poolers:
        pooler.scales = [1 / stride for stride in STRIDES]
        pooler.sampling_ratio = 1
        # 40 px of a 128 px image are about the same share as 224 px of a COCO image, so an object
        # that fills the same share of its image is pooled from the same level.
        pooler.canonical_box_size = 40
