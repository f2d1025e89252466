"""Losses: torch only, for the detectors of this project and for any other.

Functions, each with its own gradient:

- :func:`rank_sort_loss`: Rank & Sort Loss (ICCV 2021).
- :func:`ap_loss`: AP Loss (CVPR 2019), with the distances and balances of APE Loss's study.
- :func:`alrp_loss`: aLRP Loss (NeurIPS 2020).
- :func:`ape_loss`: APE Loss (CVPR 2022).
- :func:`global_ranking_loss`, :func:`class_specific_ranking_loss` and
  :func:`iou_guided_ranking_loss`: RankDetNet (CVPR 2021), with the negatives of
  :func:`group_negatives` or :func:`hardest_negatives`.
- :func:`cross_entropy`, :func:`focal`, :func:`quality_focal` and :func:`varifocal`: the baselines
  that do not rank.
- :func:`check_values`: also check values on a GPU, for debugging.

A criterion is what a detector calls: it takes :class:`Candidates` and labels (``BACKGROUND`` and
``IGNORE`` are no classes) and returns :class:`CriterionOutput`. :class:`Criterion` is composed of

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

from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses.alrp import ALRPLosses, alrp_loss
from ranking_det.losses.ape import ape_loss
from ranking_det.losses.average_precision import ap_loss
from ranking_det.losses.balance import (
    ConstantBalance,
    HistoryBalance,
    MagnitudeBalance,
    ValueBalance,
)
from ranking_det.losses.branch import BranchLoss
from ranking_det.losses.candidates import Candidates, CriterionOutput, Matches
from ranking_det.losses.classification import (
    Classification,
    CrossEntropy,
    Focal,
    QualityFocal,
    Varifocal,
)
from ranking_det.losses.criterion import ALRPCriterion, Criterion
from ranking_det.losses.cross_entropy import cross_entropy
from ranking_det.losses.focal import focal
from ranking_det.losses.iou_guided import iou_guided_ranking_loss
from ranking_det.losses.localization import GIoU, IoU, SmoothL1
from ranking_det.losses.masks import MaskCriterion, dice_errors, mask_cross_entropies
from ranking_det.losses.normalizers import CandidateCount, Normalizer, PositiveCount
from ranking_det.losses.quality_focal import quality_focal, varifocal
from ranking_det.losses.rank_sort import RankSortLosses, rank_sort_loss
from ranking_det.losses.rankdet import RankDet
from ranking_det.losses.rankdetnet import (
    class_specific_ranking_loss,
    global_ranking_loss,
    group_negatives,
    hardest_negatives,
)
from ranking_det.losses.ranking import APE, AveragePrecision, RankSort
from ranking_det.losses.schedule import CriterionSchedule
from ranking_det.losses.validation import check_values
from ranking_det.losses.weights import (
    CenternessWeight,
    IoUWeight,
    RankingWeight,
    ScoreWeight,
    UniformWeight,
)

__all__ = [
    "ALRPCriterion",
    "ALRPLosses",
    "APE",
    "AveragePrecision",
    "BACKGROUND",
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
    "IGNORE",
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
    "RankSortLosses",
    "RankingWeight",
    "ScoreWeight",
    "SmoothL1",
    "UniformWeight",
    "ValueBalance",
    "Varifocal",
    "alrp_loss",
    "ap_loss",
    "ape_loss",
    "check_values",
    "class_specific_ranking_loss",
    "cross_entropy",
    "dice_errors",
    "focal",
    "global_ranking_loss",
    "group_negatives",
    "hardest_negatives",
    "iou_guided_ranking_loss",
    "mask_cross_entropies",
    "quality_focal",
    "rank_sort_loss",
    "varifocal",
]
