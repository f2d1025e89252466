"""Attach a precomputed gradient to a loss value.

Error-driven losses (AP, aLRP, Rank & Sort) assign their gradient. It is not the derivative of the
value, which does not exist or is 0 almost everywhere. It is computed along with the value, and the
backward pass multiplies it by the incoming gradient, like a derivative.

Worked example: the ranking error of Rank & Sort Loss with the hard step [x >= 0], on five logits
where P marks the positives and n the negatives::

    logit               2      1.5     .7      0      -2
                        n       P       n      P       n
    false positives             1              2               negatives above
    rank                        2              4               1 + all logits above
    error                      1/2            1/2              false positives / rank
    value                    (1/2 + 1/2) / 2 = .5              mean over the positives

    from 1.5          +.25    -.25                             each positive sends its error / 2 in
    from 0            +.125           +.125  -.25              equal terms to the negatives above it
    gradient           .375   -.25     .125  -.25      0       the sum is 0

Moving a logit a little changes no rank, so the derivative of this value is 0 everywhere. A gradient
step along the assigned gradient lowers the negatives that are above positives, and raises these
positives.

>>> logits = torch.tensor([2.0, 1.5, 0.7, 0.0, -2.0], requires_grad=True)
>>> assigned = torch.tensor([0.375, -0.25, 0.125, -0.25, 0.0])
>>> (loss,) = attach_gradients(logits, LossTerm(torch.tensor(0.5), assigned))
>>> (2 * loss).backward()
>>> logits.grad
tensor([ 0.7500, -0.5000,  0.2500, -0.5000,  0.0000])

M is the number of logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class LossTerm(NamedTuple):
    """One loss value and the gradient that is assigned to it.

    Attributes:
        value: float scalar.
        gradient: (M,) float32 or float64, or as long as ``indices``.
        indices: int64, unique, the indices of the logits that the gradient is for; None for all M.
    """

    value: Tensor
    gradient: Tensor
    indices: Tensor | None = None


class _AttachGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, count: int, *tensors: Any) -> Any:
        """Save the terms: ``tensors`` are ``count`` values, then gradients, then indices."""
        ctx.save_for_backward(*tensors[count:])
        ctx.input_format = (logits.shape, logits.dtype, logits.device)
        ctx.set_materialize_grads(False)
        return tuple(value.clone() for value in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        # Autograd records the backward pass only with create_graph=True.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph: expected False, got True; this loss is differentiable only once, "
                "because its gradient is assigned and has no derivative"
            )
        # Read once: activation checkpointing recomputes the tensors and frees them after one read.
        saved, count = ctx.saved_tensors, len(incoming)
        shape, dtype, device = ctx.input_format
        dense: Tensor | None = None
        sparse: list[tuple[Tensor, Tensor]] = []
        for scale, gradient, indices in zip(incoming, saved[:count], saved[count:], strict=True):
            if scale is None:
                continue
            # Scale before the cast: float16 cannot represent the gradient of one logit in a mean
            # over millions.
            scaled = gradient * scale
            if indices is not None:
                sparse.append((indices, scaled))
            else:
                dense = scaled if dense is None else dense.add_(scaled)
        if dense is None:
            wide = torch.promote_types(dtype, torch.float32)
            dense = torch.zeros(shape, dtype=wide, device=device)
        for indices, scaled in sparse:
            dense.index_add_(0, indices, scaled.to(dense.dtype))
        return (dense.to(dtype), None) + (None,) * (3 * count)


def attach_gradients(logits: Tensor, *terms: LossTerm) -> tuple[Tensor, ...]:
    """Connect each term's value to ``logits`` so that backward sends the assigned gradient.

    Args:
        logits: (M,) float of any precision.
        terms: the values and their gradients. Backward multiplies each gradient by the incoming
            gradient of its value, and adds up the results.

    Returns:
        One scalar per term, differentiable once.

    Raises:
        RuntimeError: in backward with ``create_graph=True``, because an assigned gradient has no
            derivative.
    """
    columns = [field for column in zip(*terms, strict=True) for field in column]
    tensors = [None if tensor is None else tensor.to(logits.device) for tensor in columns]
    values: tuple[Tensor, ...] = _AttachGradients.apply(logits, len(terms), *tensors)
    return values


def zero_loss(logits: Tensor) -> Tensor:
    """Return a zero loss that is attached to the graph, for a batch with nothing to rank.

    Args:
        logits: (M,) float.

    Returns:
        A scalar 0 in at least single precision, with a gradient of zeros for ``logits``; NaN if a
        logit is NaN, so that a trainer sees a model that has diverged even without positives.
    """
    # An empty slice: 0 * logits.sum() would be NaN as soon as one logit is infinite.
    zero = logits[:0].sum().to(torch.promote_types(logits.dtype, torch.float32))
    return zero.masked_fill(logits.detach().isnan().any(), torch.nan)


@contextmanager
def exact_arithmetic(logits: Tensor) -> Iterator[None]:
    """Disable autograd and autocast while values and gradients are computed.

    Args:
        logits: float tensor; autocast is disabled for its device type.

    Yields:
        None.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        yield
