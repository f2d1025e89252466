"""One loss over several workers: gathering, sums, means and their gradients; O(P) numbers each.

P is the number of positives of this worker, or of all of them once gathered.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.losses.kernels import constants


def gather_positives(
    columns: Tensor, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, slice]:
    """Concatenate every worker's rows in the order of the ranks.

    Args:
        columns: (P, c) float64, what the others need to know of each positive; P may differ
            between workers and may be 0.
        group: the workers that share the ranking; None for this one alone.

    Returns:
        All rows, and the slice of them that is this worker's.
    """
    if group is None:
        return columns, slice(0, len(columns))
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    count = torch.tensor([len(columns)], device=columns.device)
    counts = [torch.empty_like(count) for _ in range(size)]
    dist.all_gather(counts, count, group=group)
    lengths = torch.cat(counts).tolist()
    # Collectives want equal shapes, so everyone pads to the longest.
    padded = columns.new_zeros(max(lengths), columns.shape[1])
    padded[: len(columns)] = columns
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded, group=group)
    start = sum(lengths[:rank])
    rows = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return rows, slice(start, start + lengths[rank])


def workers_of(scope: str) -> dist.ProcessGroup | None:
    """All workers for the scope "global", if there are several; None for this one alone."""
    if scope == "global" and dist.is_available() and dist.is_initialized():
        return dist.group.WORLD
    return None


def sum_over_workers(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Add up ``values`` over the workers of ``group``, in place."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def mean_over_workers(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The mean of ``values`` over the workers of ``group``; ``values`` is overwritten."""
    return values if group is None else sum_over_workers(values, group) / dist.get_world_size(group)


def weighted_mean(
    errors: Tensor, weights: Tensor, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The mean of errors (P,) by weights (P,), over the workers of ``group``.

    The gradient is this worker's part of that of the whole. Weights that sum to less than 1e-10
    give 0, attached to the errors.
    """
    local = torch.stack([(weights * errors).sum(), weights.sum()])
    total = sum_over_workers(local.detach().clone(), group)
    nothing = total[1] < constants.WEIGHTS_EPSILON
    denominator = torch.where(nothing, torch.ones_like(total[1]), total[1])
    return (local[0] + (total[0] - local[0]).detach()) / denominator


def undo_average(loss: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The same value with a gradient that DistributedDataParallel's average over ``group`` undoes.

    For a loss over all its workers: the average is to be the gradient of the whole, not 1/W of it.
    """
    if group is None:
        return loss
    scaled = loss * dist.get_world_size(group)
    return scaled + (loss - scaled).detach()
