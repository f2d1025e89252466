"""Collect the inputs of a ranking: this worker's logits and the positives of all workers."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_integer
from ranking_det.losses.kernels.collectives import gather_positives


class RankedLogits(NamedTuple):
    """The M ranked logits of this worker and the P positives of all workers.

    Attributes:
        logits: (M,) float without graph, on a device that has float64.
        positives: int64, the indices of this worker's positives in ``logits``.
        scores: (P,) float64, the logits of the positives of all workers, in the order of the ranks.
        local: the slice of ``scores`` that holds this worker's positives.
        columns: additional values per positive, such as its quality, (P,) float64 each.
        group: the workers that share the ranking; None for this worker only.
        indices: int64, the indices of ``logits`` in the input of the loss; None if all logits of
            the input are ranked.
    """

    logits: Tensor
    positives: Tensor
    scores: Tensor
    local: slice
    columns: tuple[Tensor, ...]
    group: dist.ProcessGroup | None
    indices: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the gradient: the logits' dtype, but at least single precision."""
        return torch.promote_types(self.logits.dtype, torch.float32)


def gather_ranked_logits(
    logits: Tensor,
    positives: Tensor,
    columns: list[Tensor],
    group: dist.ProcessGroup | None = None,
    max_negatives: int | None = None,
) -> RankedLogits | None:
    """Prepare the ranking of all logits, and gather the positives of all workers of a group.

    Args:
        logits: (M,) float, raw.
        positives: int64, the indices of this worker's positives in ``logits``.
        columns: additional values per positive of this worker, such as its quality; float of the
            shape of ``positives`` each.
        group: the workers that share the ranking; each of them must call this function. None for
            this worker only.
        max_negatives: rank only this many of this worker's negatives, with the highest logits; an
            integer >= 0, or None for all.

    Returns:
        The ranked logits, or None on every worker if no worker has a positive.

    Raises:
        ValueError: ``max_negatives`` is neither None nor an integer >= 0.
    """
    logits, indices = logits.detach(), None
    if max_negatives is not None:
        check_integer("max_negatives", max_negatives, 0)
        indices = torch.cat([positives, highest_negatives(logits, positives, max_negatives)])
        logits, positives = logits[indices], torch.arange(len(positives), device=logits.device)
    # MPS has no float64.
    device = torch.device("cpu") if logits.device.type == "mps" else logits.device
    logits, positives = logits.to(device), positives.to(device)
    fields = [logits[positives], *columns]
    packed = torch.stack([field.detach().to(device).double() for field in fields], dim=1)
    rows, local = gather_positives(packed, group)
    if len(rows) == 0:
        return None
    scores, *gathered_columns = rows.t().contiguous().unbind(0)
    return RankedLogits(logits, positives, scores, local, tuple(gathered_columns), group, indices)


def highest_negatives(logits: Tensor, positives: Tensor, count: int) -> Tensor:
    """Find the negatives with the highest logits.

    Args:
        logits: (M,) float.
        positives: (P,) int64, the indices of the positives, which are never returned.
        count: the number of negatives, >= 0.

    Returns:
        (min(count, M - P),) int64, indices into ``logits`` in any order. Negatives of -inf, which
        are ignored anyway, are taken last.
    """
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    # Raise ignored negatives above -inf, so a positive never ties with one of them.
    negatives = wide.clamp(min=torch.finfo(wide.dtype).min)
    negatives[positives] = -torch.inf
    count = min(count, len(logits) - len(positives))
    return torch.topk(negatives, count, sorted=False).indices
