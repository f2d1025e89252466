"""ALRP Loss: a Ranking-based, Balanced Loss (Oksuz, Cam, Akbas and Kalkan, NeurIPS 2020)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_per_positive, check_ranking
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.gradients import Part, attach_gradients, exact_arithmetic, zero_loss
from ranking_det.losses.kernels.interval_sums import IntervalSums
from ranking_det.losses.kernels.ramps import Ramps
from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits


class ALRPLosses(NamedTuple):
    """The two parts of aLRP Loss, each a scalar with its own gradient."""

    classification: Tensor
    localization: Tensor


def alrp_loss(
    logits: Tensor,
    positives: Tensor,
    localization_errors: Tensor,
    *,
    delta: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> ALRPLosses:
    """Lower the mean localisation-recall-precision error over the thresholds at the positives.

    A positive's error counts the negatives above it, and the localisation errors of the positives
    above it, over its rank. The classification part trains the logits by the error-driven update
    of the paper, in which badly localised positives are pushed less; the localisation part trains
    the boxes, and above all those of high logits.

    Takes O(M log P) time and O(M) memory.

    Args:
        logits: (M,) float, raw. Negatives may be infinite: -inf takes no part.
        positives: (P,) int64, unique indices into ``logits``; P may be 0.
        localization_errors: (P,) float >= 0, E of each positive: (1 - IoU) / (1 - tau), or a GIoU
            loss over 2 (1 - tau), with the threshold tau of the assignment; with gradient.
        delta: half-width of the smoothed step, in logits, >= 0; 0 is the hard step.
        group: rank the logits of all its workers together. The values are then those of the whole,
            the gradients this worker's slices of the gradients of the whole. Every worker must
            call.

    Returns:
        ``classification``, in [0, 1], with its gradient at ``logits``, and ``localization`` with
        its gradient at ``localization_errors``; zeros attached to the graph if there are no
        positives, NaN if a logit is NaN or a positive infinite.

    Raises:
        ValueError: if a shape, dtype, device or value is not as described.

    Example:
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
        >>> errors = torch.tensor([0.1, 0.6, 0.2, 0.9])
        >>> print(f"{alrp_loss(logits, torch.tensor([0, 1, 4, 6]), errors).classification:.6f}")
        0.207143
    """
    check_ranking(logits, positives, delta)
    check_per_positive("localization_errors", localization_errors, positives, high=torch.inf)
    with exact_arithmetic(logits):
        ranked = gather_ranked_logits(logits, positives, [localization_errors], group)
        if ranked is not None:
            (errors,), count = ranked.columns, len(ranked.scores)
            sums = IntervalSums(ranked, delta)
            false_positives = sums.false_positives
            others, errors_above = sums.over_other_positives(
                torch.stack([torch.ones_like(errors), errors])
            )
            rank = 1 + others + false_positives
            share = (errors_above + false_positives) / rank
            share = share.masked_fill_(false_positives <= constants.ALRP_EPSILON, 0) / count
            # Shared in proportion to H; 0 / 0 can only be where the share is 0 as well.
            weights = (share / false_positives).masked_fill_(share == 0, 0)
            at_logits = sums.gradient(weights, -share)
            at_errors = inverse_ranks_below(ranked.scores, rank, 0.0) / count
            lost = (errors * at_errors).sum()
            at_errors = at_errors.to(at_logits.dtype)
            precision_error = (false_positives / rank).mean()
    if ranked is None:
        return ALRPLosses(zero_loss(logits), zero_loss(localization_errors))
    classification = Part(precision_error.to(at_logits.dtype), at_logits)
    localization = Part(lost.to(at_logits.dtype), at_errors[ranked.local])
    return ALRPLosses(
        *attach_gradients(logits, classification),
        *attach_gradients(localization_errors, localization),
    )


def inverse_ranks_below(scores: Tensor, rank: Tensor, delta: float) -> Tensor:
    """Sum H(s_k - s_i) / rank(i) over the positives i, for every positive k; all (P,)."""
    # Mirrored: over_steps adds up what is above each logit, and here it is what is below.
    return Ramps(-scores, delta).over_steps(1 / rank)
