"""Criteria: what a detector calls to get its losses; torch only.

A criterion takes :class:`Candidates` and labels (``BACKGROUND`` and ``IGNORE`` are no classes) and
returns :class:`CriterionOutput`. :class:`Criterion` is composed of

- a classification loss that ranks, :class:`RankSort`, :class:`AveragePrecision`, :class:`APE`,
  :class:`RankDet`, or does not, :class:`CrossEntropy`, :class:`Focal`, :class:`QualityFocal`,
  :class:`Varifocal`;
- a localisation loss: :class:`GIoU`, :class:`IoU`, :class:`SmoothL1`;
- an instance weight: :class:`UniformWeight`, :class:`ScoreWeight`, :class:`IoUWeight`,
  :class:`CenternessWeight`, :class:`RankingWeight`;
- a balance of the two tasks: :class:`ConstantBalance`, :class:`ValueBalance`,
  :class:`MagnitudeBalance`, :class:`HistoryBalance`;
- for losses that are sums, a :class:`Normalizer`: :class:`PositiveCount`,
  :class:`CandidateCount`;
- for heads with an IoU or centreness branch, its :class:`BranchLoss`;
- for the masks of an R-CNN, beside the criterion of its boxes, :class:`MaskCriterion`.

:class:`ALRPCriterion` is the one whose ranking also gives the box loss. :class:`CriterionSchedule`
trains with one criterion after the other.
"""

from ranking_det.criteria.balance import (
    ConstantBalance,
    HistoryBalance,
    MagnitudeBalance,
    ValueBalance,
)
from ranking_det.criteria.branch import BranchLoss
from ranking_det.criteria.candidates import Candidates, CriterionOutput, Matches
from ranking_det.criteria.classification import (
    Classification,
    CrossEntropy,
    Focal,
    QualityFocal,
    Varifocal,
)
from ranking_det.criteria.criterion import ALRPCriterion, Criterion
from ranking_det.criteria.localization import GIoU, IoU, SmoothL1
from ranking_det.criteria.masks import MaskCriterion, dice_errors, mask_cross_entropies
from ranking_det.criteria.normalizers import CandidateCount, Normalizer, PositiveCount
from ranking_det.criteria.rankdet import RankDet
from ranking_det.criteria.ranking import APE, AveragePrecision, RankSort
from ranking_det.criteria.schedule import CriterionSchedule
from ranking_det.criteria.weights import (
    CenternessWeight,
    IoUWeight,
    RankingWeight,
    ScoreWeight,
    UniformWeight,
)

__all__ = [
    "ALRPCriterion",
    "APE",
    "AveragePrecision",
    "BranchLoss",
    "CandidateCount",
    "Candidates",
    "CenternessWeight",
    "Classification",
    "ConstantBalance",
    "Criterion",
    "CriterionOutput",
    "CriterionSchedule",
    "CrossEntropy",
    "Focal",
    "GIoU",
    "HistoryBalance",
    "IoU",
    "IoUWeight",
    "MagnitudeBalance",
    "MaskCriterion",
    "Matches",
    "Normalizer",
    "PositiveCount",
    "QualityFocal",
    "RankDet",
    "RankSort",
    "RankingWeight",
    "ScoreWeight",
    "SmoothL1",
    "UniformWeight",
    "ValueBalance",
    "Varifocal",
    "dice_errors",
    "mask_cross_entropies",
]
