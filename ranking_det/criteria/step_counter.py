"""Step counter whose count is saved in checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _reset_host_count(module: nn.Module, _: object) -> None:
    """Drop the count on the host, so that counting continues from the loaded buffer."""
    module._step = None  # type: ignore[assignment]


class StepCounter(nn.Module):
    """Counter of training steps.

    The count is in a buffer, for checkpoints, and on the host, so reading it does not synchronize
    host and device.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._step: int | None = None
        self.register_load_state_dict_post_hook(_reset_host_count)

    def forward(self, count: bool = True) -> int:
        """Return the number of earlier steps and count this one.

        Args:
            count: whether to count this step.

        Returns:
            The number of steps counted before this one.
        """
        step = int(self.step) if self._step is None else self._step
        if count:
            self.step += 1
        self._step = step + count
        return step
