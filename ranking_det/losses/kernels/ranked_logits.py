"""What a ranking loss ranks: the logits of this worker, and the positives of all workers."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_integer
from ranking_det.losses.kernels.collectives import gather_positives


class RankedLogits(NamedTuple):
    """The M logits of this worker and the P positives of all of them.

    Attributes:
        logits: (M,) without graph, on a device that has float64.
        positives: int64, the indices of this worker's positives in ``logits``.
        scores: (P,) float64, the logits of all positives, in the order of the workers.
        local: the slice of ``scores`` that is this worker's.
        columns: what else is known of the positives, (P,) float64 each.
        group: the workers, None for this one alone.
        places: int64, where ``logits`` are among those of the loss; None if they are all of them.
    """

    logits: Tensor
    positives: Tensor
    scores: Tensor
    local: slice
    columns: tuple[Tensor, ...]
    group: dist.ProcessGroup | None
    places: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """That of the logits, but at least single precision."""
        return torch.promote_types(self.logits.dtype, torch.float32)


def gather_ranked_logits(
    logits: Tensor,
    positives: Tensor,
    columns: list[Tensor],
    group: dist.ProcessGroup | None = None,
    max_negatives: int | None = None,
) -> RankedLogits | None:
    """Prepare the ranking of all logits, of all workers if there is a group.

    Args:
        logits: (M,) float.
        positives: int64 indices of this worker's positives in ``logits``.
        columns: what else is known of each of this worker's positives.
        group: the workers that share the ranking; each must call this.
        max_negatives: rank only so many of this worker's negatives, of the highest logits.

    Returns:
        The ranked logits, or None on every worker if no worker has a positive.

    Raises:
        ValueError: ``max_negatives`` is no integer of at least 0.
    """
    logits, places = logits.detach(), None
    if max_negatives is not None:
        check_integer("max_negatives", max_negatives, 0)
        places = torch.cat([positives, highest_negatives(logits, positives, max_negatives)])
        logits, positives = logits[places], torch.arange(len(positives), device=logits.device)
    # MPS has no float64.
    device = torch.device("cpu") if logits.device.type == "mps" else logits.device
    logits, positives = logits.to(device), positives.to(device)
    known = [logits[positives], *columns]
    packed = torch.stack([column.detach().to(device).double() for column in known], dim=1)
    rows, local = gather_positives(packed, group)
    if len(rows) == 0:
        return None
    scores, *others = rows.t().contiguous().unbind(0)
    return RankedLogits(logits, positives, scores, local, tuple(others), group, places)


def highest_negatives(logits: Tensor, positives: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` negatives of highest logit, or of all if there are fewer.

    Negatives of -inf, which take no part anyway, come last, and a positive never comes.
    """
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    # Only the positives are -inf then: ties with ignored negatives would let some of them in.
    negatives = wide.clamp(min=torch.finfo(wide.dtype).min)
    negatives[positives] = -torch.inf
    count = min(count, len(logits) - len(positives))
    return torch.topk(negatives, count, sorted=False).indices
