"""Attach a precomputed gradient.

Error-driven losses (AP, aLRP, Rank & Sort) assign the gradient: it is not the derivative of their
value, but computed beside it. M is the number of logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """One scalar and the gradient that belongs to it.

    Attributes:
        value: the scalar.
        gradient: (M,), or as long as ``places``; in at least single precision.
        places: int64, unique, the entries that the gradient is for; None for all of them.
    """

    value: Tensor
    gradient: Tensor
    places: Tensor | None = None


class _AttachGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, count: int, *tensors: Any) -> Any:
        """``tensors`` are the values, the gradients and the places of ``count`` parts."""
        ctx.save_for_backward(*tensors[count:])
        ctx.like = (logits.shape, logits.dtype, logits.device)
        ctx.set_materialize_grads(False)
        return tuple(value.clone() for value in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        # Autograd records a backward with create_graph=True, and no other.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph: expected False, as this loss is differentiable once: its gradient "
                "is assigned and has no derivative"
            )
        # Read once: activation checkpointing recomputes them, and forgets them at once.
        saved, count = ctx.saved_tensors, len(incoming)
        shape, dtype, device = ctx.like
        dense: Tensor | None = None
        sparse: list[tuple[Tensor, Tensor]] = []
        for scale, gradient, places in zip(incoming, saved[:count], saved[count:], strict=True):
            if scale is None:
                continue
            # Scaled before it is cast: a mean entry of a large batch is below float16's range.
            scaled = gradient * scale
            if places is not None:
                sparse.append((places, scaled))
            else:
                dense = scaled if dense is None else dense.add_(scaled)
        if dense is None:
            wide = torch.promote_types(dtype, torch.float32)
            dense = torch.zeros(shape, dtype=wide, device=device)
        for places, scaled in sparse:
            dense.index_add_(0, places, scaled.to(dense.dtype))
        return (dense.to(dtype), None) + (None,) * (3 * count)


def attach_gradients(logits: Tensor, *parts: Part) -> tuple[Tensor, ...]:
    """Give each part's value a graph in which it sends its gradient to ``logits``.

    Args:
        logits: (M,) float of any precision.
        parts: the scalars; backward multiplies each gradient by what arrives at its scalar.

    Returns:
        The scalars, differentiable once: backward with ``create_graph=True`` raises RuntimeError.
    """
    columns = [field for column in zip(*parts, strict=True) for field in column]
    tensors = [None if tensor is None else tensor.to(logits.device) for tensor in columns]
    values: tuple[Tensor, ...] = _AttachGradients.apply(logits, len(parts), *tensors)
    return values


def zero_loss(logits: Tensor) -> Tensor:
    """A zero that depends on ``logits``, for a batch that has nothing to rank."""
    # Of no entries at all: 0 * sum would be NaN as soon as one logit is infinite.
    return logits[:0].sum().to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def exact_arithmetic(logits: Tensor) -> Iterator[None]:
    """A context for computing values and gradients by hand: no graph, no autocast."""
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        yield
