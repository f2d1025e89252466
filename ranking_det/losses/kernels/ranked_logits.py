"""What a ranking loss ranks: the logits of this worker, and the positives of all workers."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

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
    """

    logits: Tensor
    positives: Tensor
    scores: Tensor
    local: slice
    columns: tuple[Tensor, ...]
    group: dist.ProcessGroup | None

    @property
    def dtype(self) -> torch.dtype:
        """That of the logits, but at least single precision."""
        return torch.promote_types(self.logits.dtype, torch.float32)


def gather_ranked_logits(
    logits: Tensor,
    positives: Tensor,
    columns: list[Tensor],
    group: dist.ProcessGroup | None = None,
    index: Tensor | None = None,
) -> RankedLogits | None:
    """Prepare the ranking of all logits, of all workers if there is a group.

    Args:
        logits: (M,) float.
        positives: int64 indices of this worker's positives in ``logits``.
        columns: what else is known of each of this worker's positives.
        group: the workers that share the ranking; each must call this.
        index: rank these entries only; its first ones are the positives.

    Returns:
        The ranked logits, or None on every worker if no worker has a positive.
    """
    logits = logits.detach()
    if index is not None:
        logits, positives = logits[index], torch.arange(len(positives), device=logits.device)
    # MPS has no float64.
    device = torch.device("cpu") if logits.device.type == "mps" else logits.device
    logits, positives = logits.to(device), positives.to(device)
    known = [logits[positives], *columns]
    packed = torch.stack([column.detach().to(device).double() for column in known], dim=1)
    rows, local = gather_positives(packed, group)
    if len(rows) == 0:
        return None
    scores, *others = rows.t().contiguous().unbind(0)
    return RankedLogits(logits, positives, scores, local, tuple(others), group)
