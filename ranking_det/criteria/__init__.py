"""Criteria: compute all training losses of a detector; torch only.

A criterion takes :class:`Candidates` and returns a :class:`CriterionOutput`. The positives have
:class:`BoxTargets` or :class:`MaskTargets`. A :class:`Criterion` has these parts:

- A classification loss. Ranking losses: :class:`RankSort`, :class:`AveragePrecision`,
  :class:`APE`, :class:`RankDet`. Baselines that do not rank: :class:`CrossEntropy`,
  :class:`Focal`, :class:`QualityFocal`, :class:`Varifocal`.
- Localization tasks. On boxes: :class:`GIoU`, :class:`IoU`, :class:`SmoothL1`. On masks:
  :class:`MaskDice`, :class:`MaskCrossEntropy`.
- An instance weight: :class:`UniformWeight`, :class:`ScoreWeight`, :class:`IoUWeight`,
  :class:`CenternessWeight`, :class:`RankingWeight`.
- A loss balance between localization and ranking: :class:`ConstantBalance`,
  :class:`ValueBalance`, :class:`MagnitudeBalance`, :class:`HistoryBalance`.
- For losses that are sums, a :class:`Normalizer`: :class:`PositiveCount`,
  :class:`CandidateCount`.
- For heads with an IoU or centerness branch, a :class:`BranchLoss`.

In :class:`ALRPCriterion` the ranking also weights the box errors. :class:`CriterionSchedule` trains
with several criteria, one after the other.
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
