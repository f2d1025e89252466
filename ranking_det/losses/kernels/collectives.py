"""Collectives for a loss over several workers: all-gather of positives, all-reduce of sums.

Each call exchanges O(P) numbers, where P is the number of positives of all workers.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.losses.kernels import constants


def gather_positives(
    columns: Tensor, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, slice]:
    """All-gather the rows of every worker, in the order of the ranks.

    Args:
        columns: (P, c) float64, the numbers that other workers need about each positive of this
            worker. P may differ between workers and may be 0.
        group: the workers that share the ranking; None for this worker only.

    Returns:
        The rows of all workers, and the slice that holds the rows of this worker.
    """
    if group is None:
        return columns, slice(0, len(columns))
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    count = torch.tensor([len(columns)], device=columns.device)
    counts = [torch.empty_like(count) for _ in range(size)]
    dist.all_gather(counts, count, group=group)
    lengths = torch.cat(counts).tolist()
    # Collectives need equal shapes, so every worker pads to the longest.
    padded = columns.new_zeros(max(lengths), columns.shape[1])
    padded[: len(columns)] = columns
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded, group=group)
    start = sum(lengths[:rank])
    rows = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return rows, slice(start, start + lengths[rank])


def workers_of(scope: str) -> dist.ProcessGroup | None:
    """Return the process group that a scope names.

    Args:
        scope: "global" for all workers; any other scope stays within this worker.

    Returns:
        The group of all workers if the scope is "global" and torch.distributed is initialized,
        otherwise None: this worker only.
    """
    if scope == "global" and dist.is_available() and dist.is_initialized():
        return dist.group.WORLD
    return None


def sum_over_workers(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Add up ``values`` over the workers of ``group``, in place (all-reduce).

    Args:
        values: any shape, the same on every worker; overwritten with the sums.
        group: the workers; None for this worker only.

    Returns:
        ``values``.
    """
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def mean_over_workers(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the mean of ``values`` over the workers of ``group`` (all-reduce).

    Args:
        values: float of any shape, the same on every worker; overwritten with the sums.
        group: the workers; None for this worker only.

    Returns:
        The means, of the shape of ``values``.
    """
    return values if group is None else sum_over_workers(values, group) / dist.get_world_size(group)


def weighted_mean(
    errors: Tensor, weights: Tensor, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Compute the weighted mean of errors over the workers of ``group``: sum(w e) / sum(w).

    Args:
        errors: (P,) float, this worker's errors, with gradient.
        weights: (P,) float >= 0, one weight for each error.
        group: the workers; None for this worker only.

    Returns:
        A scalar, the mean over all workers, with this worker's part of the gradient. It is a zero
        attached to the errors if the weights sum to less than 1e-10.
    """
    local = torch.stack([(weights * errors).sum(), weights.sum()])
    total = sum_over_workers(local.detach().clone(), group)
    no_weight = total[1] < constants.WEIGHTS_EPSILON
    denominator = torch.where(no_weight, torch.ones_like(total[1]), total[1])
    return (local[0] + (total[0] - local[0]).detach()) / denominator


def undo_average(loss: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Multiply the gradient of a loss by the number of workers, and keep its value.

    DistributedDataParallel averages gradients over the W workers. A loss that is already computed
    over all workers would train with 1 / W of its gradient. This cancels the average.

    Args:
        loss: scalar, a loss over all workers of ``group``.
        group: the workers; None for this worker only, which changes nothing.

    Returns:
        A scalar of the same value.
    """
    if group is None:
        return loss
    scaled = loss * dist.get_world_size(group)
    return scaled + (loss - scaled).detach()
