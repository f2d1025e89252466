"""The criteria, with their papers' settings; an argument is what configs set in several ways.

Those for coco/ that do not rank divide by the step's own positives, as their papers' code does, and
not by Detectron2's moving average; FCOS, ATSS and PAA by their mean over all processes.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ranking_det.criteria import (
    APE,
    ALRPCriterion,
    AveragePrecision,
    BranchLoss,
    CandidateCount,
    CenternessWeight,
    ConstantBalance,
    Criterion,
    CrossEntropy,
    Focal,
    GIoU,
    HistoryBalance,
    IoU,
    IoUWeight,
    PositiveCount,
    QualityFocal,
    RankDet,
    RankSort,
    ScoreWeight,
    SmoothL1,
    UniformWeight,
    ValueBalance,
    Varifocal,
)


def rank_sort() -> DictConfig:
    """Oksuz et al., ICCV 2021: GIoU weighted by score, balanced by value."""
    return L(Criterion)(
        classification=L(RankSort)(delta=0.5),
        localization=L(GIoU)(),
        instance_weight=L(ScoreWeight)(),
        balance=L(ValueBalance)(),
    )


def ap() -> DictConfig:
    """Chen et al., CVPR 2019.

    Its box loss is the mean over the coordinates where SmoothL1 is their sum; its weights must be
    those of the box coder.
    """
    return L(Criterion)(
        classification=L(AveragePrecision)(delta=1.0, interpolated=True),
        localization=L(SmoothL1)(beta=1.0, weights=[10.0, 10.0, 5.0, 5.0]),
        instance_weight=L(UniformWeight)(),
        balance=L(ConstantBalance)(weight=0.25),
    )


def alrp(tau: float = 0.5) -> DictConfig:
    """Oksuz et al., NeurIPS 2020; the balance is updated once an epoch.

    Args:
        tau: the IoU from which an anchor is positive.
    """
    return L(ALRPCriterion)(
        balance=L(HistoryBalance)(period="${train.iterations_per_epoch}", initial=50.0),
        delta=1.0,
        tau=tau,
        localization=L(GIoU)(),
    )


def ape(max_negatives: int = 100_000, weight: DictConfig | None = None) -> DictConfig:
    """Xu et al., CVPR 2022, at 800 pixels; section 7.1 and table 3 of the appendix.

    Args:
        max_negatives: logits of negatives that the loss takes, the highest.
        weight: of an instance; None for its score.
    """
    return L(Criterion)(
        classification=L(APE)(lam=8.0, max_negatives=max_negatives),
        localization=L(GIoU)(),
        instance_weight=L(ScoreWeight)(own_class=True) if weight is None else weight,
        balance=L(ConstantBalance)(weight=2.0),
    )


def rankdet(localization: DictConfig | None = None) -> DictConfig:
    """Liu et al., CVPR 2021: all weights 1. The mean over images is this project's reading.

    Args:
        localization: the box loss; None for that of RetinaNet.
    """
    return L(Criterion)(
        classification=L(RankDet)(),
        localization=L(SmoothL1)(beta=1 / 9) if localization is None else localization,
        instance_weight=L(UniformWeight)(),
        balance=L(ConstantBalance)(weight=1.0),
        rank_scope="image",
    )


def rankdet_centerness() -> DictConfig:
    """The same for detectors with a centreness branch, whose box loss is GIoU."""
    return L(Criterion)(
        classification=L(RankDet)(),
        localization=L(GIoU)(),
        instance_weight=L(CenternessWeight)(),
        balance=L(ConstantBalance)(weight=1.0),
        branch=L(BranchLoss)(target=L(CenternessWeight)(), weight=1.0),
        rank_scope="image",
    )


def pointwise(
    classification: DictConfig,
    localization: DictConfig,
    balance: float,
    normalizer: DictConfig,
    weight: Any = UniformWeight,
    branch: float | None = None,
) -> DictConfig:
    """A criterion that does not rank: each logit has its own loss.

    Args:
        classification: the loss of the logits.
        localization: the box loss.
        balance: the box loss's weight.
        normalizer: what both losses are divided by.
        weight: the class of an instance's weight, and of the branch's target.
        branch: the weight of the branch's loss; None for no branch.
    """
    criterion = L(Criterion)(
        classification=classification,
        localization=localization,
        instance_weight=L(weight)(),
        balance=L(ConstantBalance)(weight=balance),
        normalizer=normalizer,
    )
    if branch is not None:
        criterion.branch = L(BranchLoss)(target=L(weight)(), weight=branch)
    return criterion


def cross_entropy(weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)) -> DictConfig:
    """Ren et al., NeurIPS 2015: for the heads of R-CNNs; the box loss as Detectron2 has it.

    Args:
        weights: those of the box coder.
    """
    box_loss = L(SmoothL1)(beta=0.0, weights=list(weights))
    return pointwise(L(CrossEntropy)(), box_loss, 1.0, L(CandidateCount)())


def cross_entropy_giou() -> DictConfig:
    """The same with GIoU, which is smaller than L1 on encoded boxes."""
    return pointwise(L(CrossEntropy)(), L(GIoU)(), 10.0, L(CandidateCount)())


def focal() -> DictConfig:
    """The classification of all that follow; Lin et al., ICCV 2017."""
    return L(Focal)(alpha=0.25, gamma=2.0)


def focal_smooth_l1(weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)) -> DictConfig:
    """Lin et al., ICCV 2017, as Detectron2 normalises it.

    Args:
        weights: those of the box coder.
    """
    return pointwise(focal(), L(SmoothL1)(beta=0.1, weights=list(weights)), 1.0, L(PositiveCount)())


def focal_giou(**normalizer: Any) -> DictConfig:
    """The same with GIoU, and the weight that ATSS gives it.

    Args:
        normalizer: arguments of ``PositiveCount``.
    """
    return pointwise(focal(), L(GIoU)(), 2.0, L(PositiveCount)(**normalizer))


def retinanet_focal() -> DictConfig:
    """Lin et al., ICCV 2017, with the box loss of RankDetNet's baseline."""
    return pointwise(focal(), L(SmoothL1)(beta=1 / 9), 1.0, L(PositiveCount)(momentum=0.0))


def atss_focal() -> DictConfig:
    """Zhang et al., CVPR 2020."""
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(focal(), L(GIoU)(), 2.0, count, CenternessWeight, branch=1.0)


def fcos_focal() -> DictConfig:
    """Tian et al., ICCV 2019, with the boxes weighted by centreness as in the authors' code.

    Unlike the paper, 1 - IoU and not -log(IoU).
    """
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(focal(), L(IoU)(), 1.0, count, CenternessWeight, branch=1.0)


def paa_focal() -> DictConfig:
    """Kim and Lee, ECCV 2020."""
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(focal(), L(GIoU)(), 1.3, count, IoUWeight, branch=0.5)


def quality_focal() -> DictConfig:
    """Li et al., NeurIPS 2020: no branch, with the box loss of ATSS."""
    count = L(PositiveCount)(momentum=0.0)
    return pointwise(L(QualityFocal)(beta=2.0), L(GIoU)(), 2.0, count)


def varifocal() -> DictConfig:
    """Zhang et al., CVPR 2021: no branch, with the box loss of ATSS."""
    count = L(PositiveCount)(momentum=0.0)
    return pointwise(L(Varifocal)(alpha=0.75, gamma=2.0), L(GIoU)(), 2.0, count)
