"""Mixed precision: which, and Detectron2's trainer for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import nn

from ranking_det.user_errors import UserError

DTYPES = ("auto", "float16", "bfloat16")


def choose_dtype(amp: Mapping[str, Any], device: str) -> str:
    """The half precision of a training: "float16", "bfloat16", or "" for none.

    Args:
        amp: ``enabled``, and ``dtype``, whose default "auto" is float16 on a GPU, as Detectron2
            has it, and bfloat16 elsewhere.
        device: such as "cuda" or "cpu".

    Raises:
        UserError: another dtype, or float16 without a GPU, where torch has no loss scaling.
    """
    if not amp.get("enabled", False):
        return ""
    dtype = amp.get("dtype", "auto")
    on_gpu = str(device).startswith("cuda")
    if dtype not in DTYPES:
        raise UserError(f"train.amp.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "auto":
        return "float16" if on_gpu else "bfloat16"
    if dtype == "float16" and not on_gpu:
        raise UserError(f"train.amp.dtype=float16 needs a GPU; on {device} take bfloat16")
    return str(dtype)


def build_trainer(
    model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer, dtype: str, device: str
) -> SimpleTrainer:
    """Detectron2's trainer, which computes the forward pass in ``dtype`` where torch deems it safe.

    The losses of this project compute in single precision or better whatever arrives.
    """
    if dtype == "float16":
        return AMPTrainer(model, loader, optimizer)
    if dtype:
        # Its exponents are those of float32: no loss scaling, hence the plain trainer.
        half = torch.autocast(torch.device(device).type, dtype=getattr(torch, dtype))
        return SimpleTrainer(Autocast(model, half), loader, optimizer)
    return SimpleTrainer(model, loader, optimizer)


class Autocast(nn.Module):
    """A model whose training forward runs under autocast.

    Args:
        model: plain or distributed.
        context: a ``torch.autocast``.
    """

    def __init__(self, model: nn.Module, context: torch.autocast) -> None:
        super().__init__()
        self.model = model
        self.context = context

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the model's losses."""
        with self.context:
            losses: dict[str, torch.Tensor] = self.model(batched_inputs)
        return losses
