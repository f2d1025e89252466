"""Training steps, counted in the checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _forget(module: nn.Module, _: object) -> None:
    """Count on from the loaded step."""
    module._step = None  # type: ignore[assignment]


class StepCounter(nn.Module):
    """Counts in a buffer, and on the host too, which must not ask the device every time."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._step: int | None = None
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, count: bool = True) -> int:
        """Return the steps before this one, and count this one if asked to."""
        step = int(self.step) if self._step is None else self._step
        if count:
            self.step += 1
        self._step = step + count
        return step
