"""Parts of YOLACT, as in Rank & Sort Loss (Oksuz et al., ICCV 2021).

The head, the prototypes, the anchors' aspect ratios, the assigner, the box coder and Fast NMS are
those of the paper; every positive trains its mask. Images are not padded.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from omegaconf import DictConfig

from ranking_det.assigners import MaxIoU
from ranking_det.layers import FastNMS
from ranking_det.modeling import (
    BilinearFPN,
    DenseInference,
    PrototypeMasks,
    RankingYOLACT,
    YOLACTHead,
)
from ranking_det.modeling.backbones.backbone_parts import ExtraLevels


def yolact(
    bottom_up: DictConfig,
    channels: int,
    res5_channels: int,
    criterion: DictConfig,
    strides: list[float],
    sizes: list[float],
    score_thresh: float,
) -> DictConfig:
    """YOLACT with an FPN for images of any size: p3 to p7, with p6 from res5.

    Args:
        bottom_up: the bottom-up network.
        channels: channels of the FPN, the head and the mask branch.
        res5_channels: channels of the bottom-up network's last feature.
        criterion: criterion with a box and a mask loss.
        strides: distances of the anchors' centers, one per level, in pixels.
        sizes: anchor sizes, one per level, in pixels.
        score_thresh: score threshold at inference.
    """
    return L(RankingYOLACT)(
        backbone=L(BilinearFPN)(
            bottom_up=bottom_up,
            in_features=bottom_up.out_features,
            out_channels=channels,
            top_block=L(ExtraLevels)(in_channels=res5_channels, out_channels="${..out_channels}"),
        ),
        head=L(YOLACTHead)(
            in_channels="${..backbone.out_channels}", num_classes="${..num_classes}", num_anchors=3
        ),
        mask_branch=L(PrototypeMasks)(
            in_channels="${..backbone.out_channels}", num_classes="${..num_classes}"
        ),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[size] for size in sizes],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=strides,
            offset=0.5,
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
        assigner=L(MaxIoU)(positive_iou=0.5, negative_iou=0.4, low_quality="object"),
        criterion=criterion,
        num_classes=80,
        inference=L(DenseInference)(
            score_thresh=score_thresh,
            topk_by="anchor",
            suppression=L(FastNMS)(iou_thresh=0.5, topk=200),
        ),
    )


def with_cross_entropy(model: DictConfig, criterion: DictConfig) -> DictConfig:
    """Make the baseline with the losses of the original YOLACT (Bolya et al., ICCV 2019).

    It has a softmax, semantic segmentation, and the masks of at most 100 positives of an image.
    """
    baseline = deepcopy(model)
    baseline.criterion = criterion
    baseline.inference.softmax = True
    baseline.mask_branch.semantic = True
    baseline.mask_branch.max_masks = 100
    return baseline
