"""Criteria with the settings of their papers; configs differ only in the arguments.

Focal, quality focal and varifocal loss for coco/ are divided by the number of positives of the
current step, as in their papers' code, and not by Detectron2's moving average. Quality focal and
varifocal loss, and the criteria of FCOS, ATSS and PAA, use the mean of that number over all
processes. Cross entropy is divided by the number of candidates.
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
    CriterionSchedule,
    CrossEntropy,
    Focal,
    GIoU,
    HistoryBalance,
    IoU,
    IoUWeight,
    MaskCrossEntropy,
    MaskDice,
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
    """Rank & Sort Loss (Oksuz et al., ICCV 2021): GIoU weighted by score, balanced by value."""
    return L(Criterion)(
        classification=L(RankSort)(delta=0.5),
        localization=L(GIoU)(),
        instance_weight=L(ScoreWeight)(),
        balance=L(ValueBalance)(),
    )


def rank_sort_masks() -> DictConfig:
    """Rank & Sort Loss of one-stage detectors with boxes and masks: RS-YOLACT.

    GIoU and Dice are each weighted by score and balanced by value. As in the paper's code, a
    positive whose box does not overlap its object at all is ranked among the negatives.
    """
    criterion = rank_sort()
    criterion.classification.zero_is_negative = True
    criterion.localization = [L(GIoU)(), L(MaskDice)()]
    return criterion


def rank_sort_masks_only() -> DictConfig:
    """Rank & Sort Loss for SOLOv2: the masks' Dice loss takes the place of the box loss."""
    criterion = rank_sort()
    criterion.localization = L(MaskDice)(eps=0.002)
    return criterion


def ap() -> DictConfig:
    """AP Loss (Chen et al., CVPR 2019).

    The paper's box loss is the mean over the four coordinates. ``SmoothL1`` is the sum over them,
    so the balance is .25. The weights must equal those of the box coder.
    """
    return L(Criterion)(
        classification=L(AveragePrecision)(delta=1.0, interpolated=True),
        localization=L(SmoothL1)(beta=1.0, weights=[10.0, 10.0, 5.0, 5.0]),
        instance_weight=L(UniformWeight)(),
        balance=L(ConstantBalance)(weight=0.25),
    )


def ap_giou() -> DictConfig:
    """AP Loss with GIoU Loss of weight 2, as in the paper on bucketed losses (ECCV 2024)."""
    criterion = ap()
    criterion.localization = L(GIoU)()
    criterion.balance = L(ConstantBalance)(weight=2.0)
    return criterion


def alrp(tau: float = 0.5) -> DictConfig:
    """Criterion of aLRP Loss (Oksuz et al., NeurIPS 2020); balance updated once per epoch.

    Args:
        tau: IoU threshold of positive anchors.
    """
    return L(ALRPCriterion)(
        balance=L(HistoryBalance)(period="${train.iterations_per_epoch}", initial=50.0),
        delta=1.0,
        tau=tau,
        localization=L(GIoU)(),
    )


def ape(max_negatives: int = 100_000, weight: DictConfig | None = None) -> DictConfig:
    """APE Loss (Xu et al., CVPR 2022) at 800 px: section 7.1 and table 3 of the appendix.

    Args:
        max_negatives: number of highest-scored negative logits that enter the loss.
        weight: instance weight of the box loss; None for the score.
    """
    return L(Criterion)(
        classification=L(APE)(lam=8.0, max_negatives=max_negatives),
        localization=L(GIoU)(),
        instance_weight=L(ScoreWeight)(target_class=True) if weight is None else weight,
        balance=L(ConstantBalance)(weight=2.0),
    )


def rankdet(localization: DictConfig | None = None) -> DictConfig:
    """RankDetNet's losses (Liu et al., CVPR 2021), all with weight 1.

    The paper does not say how to combine images; here the loss is the mean over images.

    Args:
        localization: box loss; None for RetinaNet's.
    """
    return L(Criterion)(
        classification=L(RankDet)(),
        localization=L(SmoothL1)(beta=1 / 9) if localization is None else localization,
        instance_weight=L(UniformWeight)(),
        balance=L(ConstantBalance)(weight=1.0),
        rank_scope="image",
    )


def rankdet_centerness() -> DictConfig:
    """RankDetNet's losses with GIoU Loss, for detectors with a centerness branch."""
    return L(Criterion)(
        classification=L(RankDet)(),
        localization=L(GIoU)(),
        instance_weight=L(CenternessWeight)(),
        balance=L(ConstantBalance)(weight=1.0),
        branch=L(BranchLoss)(target=L(CenternessWeight)(), weight=1.0),
        rank_scope="image",
    )


def in_halves(first: DictConfig, second: DictConfig) -> DictConfig:
    """Train with one criterion in the first half of the run and another one in the second half."""
    return L(CriterionSchedule)(
        stages=[first, second], shares=[0.5, 0.5], max_iter="${train.max_iter}"
    )


def pointwise(
    classification: DictConfig,
    localization: DictConfig,
    balance: float,
    normalizer: DictConfig,
    weight: Any = UniformWeight,
    branch: float | None = None,
) -> DictConfig:
    """Build a criterion that does not rank: each logit has a separate loss.

    Args:
        classification: loss of the logits.
        localization: box loss.
        balance: weight of the box loss.
        normalizer: the divisor of both losses.
        weight: class of the instance weight; it is also the target of the branch.
        branch: weight of the branch's loss; None for no branch.
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


def cross_entropy(
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0), beta: float = 0.0
) -> DictConfig:
    """Cross entropy for R-CNNs (Ren et al., NeurIPS 2015), with the box loss as in Detectron2.

    Args:
        weights: weights of the box coder.
        beta: the error at which smooth L1 changes from quadratic to linear; 0 for L1.
    """
    box_loss = L(SmoothL1)(beta=beta, weights=list(weights))
    return pointwise(L(CrossEntropy)(), box_loss, 1.0, L(CandidateCount)())


def cross_entropy_giou() -> DictConfig:
    """Cross entropy with GIoU Loss.

    GIoU Loss has the weight 10, because it is smaller than the L1 loss of encoded boxes.
    """
    return pointwise(L(CrossEntropy)(), L(GIoU)(), 10.0, L(CandidateCount)())


def yolact_cross_entropy() -> DictConfig:
    """Losses of YOLACT (Bolya et al., ICCV 2019), normalized by the number of positives.

    Cross entropy has three hard negatives for each positive. The semantic segmentation loss belongs
    to the model's mask branch.
    """
    masks = L(MaskCrossEntropy)(by_area=True, weighted=False, balanced=False, weight=6.125)
    return L(Criterion)(
        classification=L(CrossEntropy)(negatives_per_positive=3),
        localization=[L(SmoothL1)(beta=1.0, weights=[10.0, 10.0, 5.0, 5.0]), masks],
        instance_weight=L(UniformWeight)(),
        balance=L(ConstantBalance)(weight=1.5),
        normalizer=L(PositiveCount)(momentum=0.0),
    )


def focal() -> DictConfig:
    """Focal loss with alpha .25 and gamma 2 (Lin et al., ICCV 2017)."""
    return L(Focal)(alpha=0.25, gamma=2.0)


def focal_smooth_l1(weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)) -> DictConfig:
    """Focal loss and smooth L1 (Lin et al., ICCV 2017), normalized as in Detectron2.

    Args:
        weights: weights of the box coder.
    """
    return pointwise(focal(), L(SmoothL1)(beta=0.1, weights=list(weights)), 1.0, L(PositiveCount)())


def focal_giou(**normalizer: Any) -> DictConfig:
    """Focal loss and GIoU Loss, which has the weight of 2 that ATSS uses.

    Args:
        normalizer: arguments of ``PositiveCount``.
    """
    return pointwise(focal(), L(GIoU)(), 2.0, L(PositiveCount)(**normalizer))


def focal_masks() -> DictConfig:
    """SOLOv2: focal loss and 3 times the mean Dice loss (Wang et al., NeurIPS 2020).

    As in the authors' code, the focal loss is divided by the number of positives plus one.
    """
    masks = L(MaskDice)(eps=0.002, weighted=False, balanced=False, weight=3.0)
    return pointwise(focal(), masks, 1.0, L(PositiveCount)(momentum=0.0, extra=1))


def retinanet_focal() -> DictConfig:
    """Focal loss (Lin et al., ICCV 2017) with the box loss of RankDetNet's baseline."""
    return pointwise(focal(), L(SmoothL1)(beta=1 / 9), 1.0, L(PositiveCount)(momentum=0.0))


def atss_focal() -> DictConfig:
    """ATSS: focal loss, GIoU Loss and a centerness branch (Zhang et al., CVPR 2020)."""
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(focal(), L(GIoU)(), 2.0, count, CenternessWeight, branch=1.0)


def fcos_focal() -> DictConfig:
    """FCOS: focal loss, IoU loss and a centerness branch (Tian et al., ICCV 2019).

    The box loss is weighted by centerness, as in the authors' code. Unlike the paper, the box loss
    is 1 - IoU and not -log(IoU).
    """
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(focal(), L(IoU)(), 1.0, count, CenternessWeight, branch=1.0)


def paa_focal() -> DictConfig:
    """PAA: focal loss, GIoU Loss and an IoU branch (Kim and Lee, ECCV 2020)."""
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(focal(), L(GIoU)(), 1.3, count, IoUWeight, branch=0.5)


def quality_focal(weight: Any = UniformWeight) -> DictConfig:
    """Quality focal loss (Li et al., NeurIPS 2020) with the box loss of ATSS and no branch.

    Args:
        weight: class of the instance weight.
    """
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(L(QualityFocal)(beta=2.0), L(GIoU)(), 2.0, count, weight)


def varifocal() -> DictConfig:
    """Varifocal loss (Zhang et al., CVPR 2021) with the box loss of ATSS and no branch."""
    count = L(PositiveCount)(momentum=0.0, scope="global")
    return pointwise(L(Varifocal)(alpha=0.75, gamma=2.0), L(GIoU)(), 2.0, count)
