"""Parts of Faster, Mask and Cascade R-CNN, as in Rank & Sort Loss (Oksuz et al., ICCV 2021).

All anchors and all proposals are ranked, without sampling. RPN and box head have the same box
coder. The losses of the RPN have the weight .2.

Unlike the paper's code, which initializes FPN and box head with Xavier uniform (bound
sqrt(6 / (fan_in + fan_out))), we keep Detectron2's initialization (bound sqrt(3 / fan_in)). On
ResNet-50 and 101 the paper's bound is 1.36 times ours in the box head's first layer (.0210 and
.0155). In the FPN's lateral convolutions on res3, res4 and res5 it is 1.15, 1.26 and 1.33 times
ours, and 1.33 times in the convolution that makes p6 in the "+" models. The other layers have as
many outputs as inputs, so both bounds are equal. CARAFE is initialized as in its paper.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from omegaconf import DictConfig

from ranking_det.assigners import MaxIoU
from ranking_det.criteria import MaskCrossEntropy, MaskDice
from ranking_det.modeling import (
    CARAFEFPN,
    RandomSampler,
    RankingBoxPredictor,
    RankingCascadeROIHeads,
    RankingMaskHead,
    RankingROIHeads,
    RankingRPN,
    RankingRPNHead,
)

LEVELS = ["p2", "p3", "p4", "p5"]
STRIDES = [4, 8, 16, 32, 64]
# Weights of the box coder in the RPN of the baselines, as in Detectron2.
RPN_WEIGHTS = [1.0, 1.0, 1.0, 1.0]
coder = L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0])


def rpn(
    channels: int,
    criterion: DictConfig,
    anchor_scale: int,
    before_nms: list[int],
    after_nms: list[int],
) -> DictConfig:
    """RPN with one anchor size per level and three aspect ratios.

    Args:
        channels: channels of the features.
        criterion: criterion of the RPN.
        anchor_scale: anchor size in strides.
        before_nms: proposals per level before NMS, in training and at inference.
        after_nms: proposals per image after NMS, in training and at inference.
    """
    return L(RankingRPN)(
        in_features=[*LEVELS, "p6"],
        head=L(StandardRPNHead)(in_channels=channels, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[anchor_scale * stride] for stride in STRIDES],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=STRIDES,
            offset=0.0,
        ),
        box2box_transform=coder,
        assigner=L(MaxIoU)(positive_iou=0.7, negative_iou=0.3, low_quality="object"),
        criterion=criterion,
        pre_nms_topk=before_nms,
        post_nms_topk=after_nms,
        loss_weight=0.2,
    )


def box_heads(
    channels: int, criterion: DictConfig, features: int, sampling_ratio: int, score_thresh: float
) -> DictConfig:
    """Box head with two fully connected layers of ``features`` units and class-specific boxes."""
    return L(RankingROIHeads)(
        num_classes=80,
        box_in_features=LEVELS,
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=[1 / stride for stride in STRIDES[:4]],
            sampling_ratio=sampling_ratio,
            pooler_type="ROIAlignV2",
            canonical_box_size=224,
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels=channels, height=7, width=7),
            conv_dims=[],
            fc_dims=[features, features],
        ),
        box_predictor=L(RankingBoxPredictor)(
            input_shape=L(ShapeSpec)(channels=features),
            box2box_transform=coder,
            num_classes="${..num_classes}",
            test_score_thresh=score_thresh,
        ),
        assigner=L(MaxIoU)(positive_iou=0.5, negative_iou=0.5, low_quality=None),
        criterion=criterion,
    )


def with_masks(model: DictConfig, num_conv: int) -> DictConfig:
    """Add class-specific mask heads: ``num_conv`` convolutions and a transposed one.

    A cascade gets a mask head in each stage.
    """
    masked = deepcopy(model)
    channels = model.backbone.out_channels
    masked.roi_heads.mask_in_features = LEVELS
    masked.roi_heads.mask_pooler = deepcopy(model.roi_heads.box_pooler)
    masked.roi_heads.mask_pooler.output_size = 14
    head = L(RankingMaskHead)(
        input_shape=L(ShapeSpec)(channels=channels, height=14, width=14),
        num_classes="${..num_classes}",
        conv_dims=[channels] * (num_conv + 1),
    )
    if "box_heads" in model.roi_heads:
        head.num_classes = "${...num_classes}"
        masked.roi_heads.mask_heads = [head for _ in model.roi_heads.box_heads]
        criteria = list(masked.roi_heads.criteria)
    else:
        masked.roi_heads.mask_head = head
        criteria = [masked.roi_heads.criterion]
    for criterion in criteria:
        criterion.localization = [criterion.localization, L(MaskDice)()]
    return masked


def with_stages(model: DictConfig, ious: tuple[float, ...] = (0.5, 0.6, 0.7)) -> DictConfig:
    """Make a Cascade R-CNN with class-agnostic boxes, one stage for each IoU threshold.

    The RPN ignores anchors that cross the image boundary. A sampler of proposals samples in every
    stage.
    """
    cascade, heads = deepcopy(model), model.roi_heads
    predictor = deepcopy(heads.box_predictor)
    predictor.num_classes = "${...num_classes}"
    predictor.cls_agnostic_bbox_reg = True
    cascade.proposal_generator.boundary = 0.0
    cascade.roi_heads = L(RankingCascadeROIHeads)(
        num_classes=heads.num_classes,
        box_in_features=heads.box_in_features,
        box_pooler=heads.box_pooler,
        box_heads=[heads.box_head for _ in ious],
        box_predictors=[predictor for _ in ious],
        assigners=[L(MaxIoU)(positive_iou=iou, negative_iou=iou, low_quality=None) for iou in ious],
        criteria=[heads.criterion for _ in ious],
    )
    if "sampler" in heads:
        cascade.roi_heads.sampler = heads.sampler
    return cascade


def with_carafe(model: DictConfig) -> DictConfig:
    """Replace the FPN by a CARAFE FPN (Wang et al., ICCV 2019), as in the "+" models.

    The CARAFE FPN computes p6 itself.
    """
    plus, neck = deepcopy(model), model.backbone
    plus.backbone = L(CARAFEFPN)(
        bottom_up=neck.bottom_up, in_features=neck.in_features, out_channels=neck.out_channels
    )
    return plus


def with_criteria(
    model: DictConfig, rpn_criterion: DictConfig, box_criterion: DictConfig
) -> DictConfig:
    """Replace the criteria of the RPN and of the box head of a Faster or Mask R-CNN."""
    changed = deepcopy(model)
    changed.proposal_generator.criterion = rpn_criterion
    changed.roi_heads.criterion = box_criterion
    return changed


def with_samplers(
    model: DictConfig, anchors: int | None = 256, rois: int | None = 512
) -> DictConfig:
    """Add random sampling per image; None keeps all anchors or all proposals."""
    sampled = deepcopy(model)
    if anchors is not None:
        sampled.proposal_generator.sampler = L(RandomSampler)(size=anchors, positive_fraction=0.5)
    if rois is not None:
        sampled.roi_heads.sampler = L(RandomSampler)(size=rois, positive_fraction=0.25)
    return sampled


def with_rare_positives(
    model: DictConfig, prior_prob: float = 0.01, score_thresh: float = 0.05
) -> DictConfig:
    """Initialize the scores at ``prior_prob``, for losses that sum over all negatives."""
    rare, channels = deepcopy(model), model.backbone.out_channels
    rare.proposal_generator.head = L(RankingRPNHead)(
        in_channels=channels, num_anchors=3, prior_prob=prior_prob
    )
    rare.roi_heads.box_predictor.prior_prob = prior_prob
    rare.roi_heads.box_predictor.test_score_thresh = score_thresh
    return rare


def with_cross_entropy(
    model: DictConfig, rpn_criterion: DictConfig, box_criterion: DictConfig, rois: int = 512
) -> DictConfig:
    """Make the papers' baseline: cross entropy on random samples.

    Detectron2's R-CNNs have the same losses and samplers, but assign a low-quality match to the
    object that the anchor overlaps most (``low_quality="anchor"``).
    """
    baseline = with_samplers(with_criteria(model, rpn_criterion, box_criterion), rois=rois)
    rpn = baseline.proposal_generator
    rpn.loss_weight = 1.0
    # Unlike in the ranking detectors, RPN and box head have different box coders: Detectron2's.
    rpn.box2box_transform = L(Box2BoxTransform)(weights=RPN_WEIGHTS)
    baseline.roi_heads.box_predictor.softmax = True
    if "mask_head" in baseline.roi_heads:
        baseline.roi_heads.mask_head._target_ = MaskRCNNConvUpsampleHead
        criterion = baseline.roi_heads.criterion
        masks = L(MaskCrossEntropy)(weighted=False, balanced=False)
        criterion.localization = [criterion.localization, masks]
        # More than a sample can have, so every positive trains its mask.
        baseline.roi_heads.max_mask_rois = 10_000
    return baseline
