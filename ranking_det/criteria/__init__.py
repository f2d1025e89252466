"""Criteria: what a detector calls to get its losses; torch only.

A criterion takes :class:`Candidates`, whose positives have :class:`BoxTargets` or
:class:`MaskTargets`, and returns :class:`CriterionOutput`. :class:`Criterion` is composed of

- a classification loss that ranks, :class:`RankSort`, :class:`AveragePrecision`, :class:`APE`,
  :class:`RankDet`, or does not, :class:`CrossEntropy`, :class:`Focal`, :class:`QualityFocal`,
  :class:`Varifocal`;
- localisation tasks, on boxes :class:`GIoU`, :class:`IoU`, :class:`SmoothL1`, on masks
  :class:`MaskDice`, :class:`MaskCrossEntropy`;
- an instance weight: :class:`UniformWeight`, :class:`ScoreWeight`, :class:`IoUWeight`,
  :class:`CenternessWeight`, :class:`RankingWeight`;
- a balance of localisation against ranking: :class:`ConstantBalance`, :class:`ValueBalance`,
  :class:`MagnitudeBalance`, :class:`HistoryBalance`;
- for losses that are sums, a :class:`Normalizer`: :class:`PositiveCount`,
  :class:`CandidateCount`;
- for heads with an IoU or centreness branch, its :class:`BranchLoss`.

:class:`ALRPCriterion` is the one whose ranking also gives the box loss. :class:`CriterionSchedule`
trains with one criterion after the other.
"""

from ranking_det.criteria.balance import (
    ConstantBalance,
    HistoryBalance,
    MagnitudeBalance,
    ValueBalance,
)
from ranking_det.criteria.candidates import BoxTargets, Candidates, CriterionOutput, MaskTargets
from ranking_det.criteria.classification import (
    APE,
    AveragePrecision,
    Classification,
    CrossEntropy,
    Focal,
    QualityFocal,
    RankDet,
    RankSort,
    Varifocal,
)
from ranking_det.criteria.criterion import ALRPCriterion, Criterion, CriterionBase
from ranking_det.criteria.criterion_schedule import CriterionSchedule
from ranking_det.criteria.instance_weights import (
    CenternessWeight,
    IoUWeight,
    RankingWeight,
    ScoreWeight,
    UniformWeight,
)
from ranking_det.criteria.localization import (
    BranchLoss,
    GIoU,
    IoU,
    Localization,
    MaskCrossEntropy,
    MaskDice,
    MaskLocalization,
    SmoothL1,
)
from ranking_det.criteria.normalizers import CandidateCount, Normalizer, PositiveCount

__all__ = [name for name, value in globals().items() if callable(value)]
