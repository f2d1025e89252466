"""R-CNNs for small images on a CPU: ResNet-18 trained from scratch, FPN of 64 channels, FC of 256.

``faster``, ``mask`` and ``cascade`` rank; ``faster_plus`` has CARAFE in its FPN. ``faster_ce`` and
``mask_ce`` are Detectron2's own heads with its samplers, of the same sizes and with the same
proposals, at most 128 an image.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from omegaconf import DictConfig

from ranking_det.assigners import MaxIoU
from ranking_det.losses import MaskCriterion
from ranking_det.modeling import (
    CARAFEFPN,
    RankingBoxPredictor,
    RankingCascadeROIHeads,
    RankingMaskHead,
    RankingROIHeads,
    RankingRPN,
)

from .criteria import rank_sort

CHANNELS, FEATURES = 64, 256


def pooler(size: int) -> DictConfig:
    """Features of ``size`` x ``size`` from the level of each proposal."""
    return L(ROIPooler)(
        output_size=size,
        scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32],
        sampling_ratio=2,
        pooler_type="ROIAlignV2",
        canonical_box_size=224,
    )


faster = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
            out_features=["res2", "res3", "res4", "res5"],
            freeze_at=0,
        ),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=CHANNELS,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RankingRPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=CHANNELS, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            # Half as many strides as in the papers, for small objects.
            sizes=[[16], [32], [64], [128], [256]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
        assigner=L(MaxIoU)(positive_iou=0.7, negative_iou=0.3, low_quality=True),
        criterion=rank_sort,
        pre_nms_topk=[500, 500],
        post_nms_topk=[128, 128],
        loss_weight=0.2,
    ),
    roi_heads=L(RankingROIHeads)(
        num_classes=80,
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=pooler(7),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels=CHANNELS, height=7, width=7),
            conv_dims=[],
            fc_dims=[FEATURES, FEATURES],
        ),
        box_predictor=L(RankingBoxPredictor)(
            input_shape=L(ShapeSpec)(channels=FEATURES),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            # A short run's ranking scores have no scale yet.
            test_score_thresh=0.0,
        ),
        assigner=L(MaxIoU)(positive_iou=0.5, negative_iou=0.5, low_quality=False),
        criterion=rank_sort,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)

faster_plus = deepcopy(faster)
faster_plus.backbone = L(CARAFEFPN)(
    bottom_up=faster.backbone.bottom_up,
    in_features=["res2", "res3", "res4", "res5"],
    out_channels=CHANNELS,
)

mask = deepcopy(faster)
mask.roi_heads.mask_in_features = ["p2", "p3", "p4", "p5"]
mask.roi_heads.mask_pooler = pooler(14)
mask.roi_heads.mask_head = L(RankingMaskHead)(
    input_shape=L(ShapeSpec)(channels=CHANNELS, height=14, width=14),
    num_classes="${..num_classes}",
    conv_dims=[CHANNELS] * 3,  # two convolutions and the transposed one
)
mask.roi_heads.mask_criterion = L(MaskCriterion)()

STAGE_IOUS = [0.5, 0.6, 0.7]
cascade = deepcopy(faster)
cascade.proposal_generator.boundary = 0.0
cascade.roi_heads = L(RankingCascadeROIHeads)(
    num_classes=80,
    box_in_features=["p2", "p3", "p4", "p5"],
    box_pooler=pooler(7),
    box_heads=[faster.roi_heads.box_head for _ in STAGE_IOUS],
    box_predictors=[
        L(RankingBoxPredictor)(
            input_shape=L(ShapeSpec)(channels=FEATURES),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${...num_classes}",
            cls_agnostic_bbox_reg=True,
            test_score_thresh=0.0,
        )
        for _ in STAGE_IOUS
    ],
    assigners=[
        L(MaxIoU)(positive_iou=iou, negative_iou=iou, low_quality=False) for iou in STAGE_IOUS
    ],
    criteria=[rank_sort for _ in STAGE_IOUS],
)


def with_cross_entropy(model: DictConfig) -> DictConfig:
    """The same detector of Detectron2's own parts."""
    ranking, heads = model.proposal_generator, deepcopy(model.roi_heads)
    baseline = deepcopy(model)
    baseline.proposal_generator = L(RPN)(
        **{name: ranking[name] for name in ("in_features", "head", "anchor_generator")},
        **{name: ranking[name] for name in ("box2box_transform", "pre_nms_topk", "post_nms_topk")},
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        batch_size_per_image=256,
        positive_fraction=0.5,
    )
    heads.box_predictor._target_ = FastRCNNOutputLayers
    if "mask_head" in heads:
        heads.mask_head._target_ = MaskRCNNConvUpsampleHead
    ours = ("_target_", "assigner", "criterion", "mask_criterion")
    baseline.roi_heads = L(StandardROIHeads)(
        **{name: heads[name] for name in heads if name not in ours},
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
        batch_size_per_image=128,
        positive_fraction=0.25,
    )
    return baseline


faster_ce = with_cross_entropy(faster)
mask_ce = with_cross_entropy(mask)
