"""Ranking losses as plain functions of logits, for any detector; torch only.

Each function computes a scalar (or a named tuple of scalars) with gradient:

- :func:`rank_sort_loss`: Rank & Sort Loss (ICCV 2021).
- :func:`ap_loss`: AP Loss (CVPR 2019), with the distance functions and balance constants that the
  APE Loss paper compares.
- :func:`alrp_loss`: aLRP Loss (NeurIPS 2020).
- :func:`ape_loss`: APE Loss (CVPR 2022).
- :func:`global_ranking_loss`, :func:`class_specific_ranking_loss` and
  :func:`iou_guided_ranking_loss`: RankDetNet (CVPR 2021), with the negatives of
  :func:`group_negatives` or :func:`hardest_negatives`.
- :func:`cross_entropy`, :func:`focal`, :func:`quality_focal` and :func:`varifocal`: classification
  baselines that do not rank.
- :func:`dice_errors` and :func:`mask_cross_entropies`: localization errors of masks.

``docs/losses.md`` shows how to use them in your own detector. :mod:`ranking_det.criteria` wraps
them into the objects that the detectors of this project call.
"""

from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses.alrp import ALRPLosses, alrp_loss
from ranking_det.losses.ap import ap_loss
from ranking_det.losses.ape import ape_loss
from ranking_det.losses.mask_errors import dice_errors, mask_cross_entropies
from ranking_det.losses.pointwise import cross_entropy, focal, quality_focal, varifocal
from ranking_det.losses.rank_sort import RankSortLosses, rank_sort_loss
from ranking_det.losses.rankdetnet import (
    class_specific_ranking_loss,
    global_ranking_loss,
    group_negatives,
    hardest_negatives,
    iou_guided_ranking_loss,
)

__all__ = [name for name, value in globals().items() if callable(value)]
__all__ += ["BACKGROUND", "IGNORE"]
