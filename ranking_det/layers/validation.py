"""Checks of what callers of the layers pass."""

from __future__ import annotations

from torch import Tensor

from ranking_det.checks import describe


def check_detections(boxes: Tensor, scores: Tensor, classes: Tensor) -> None:
    """Raise ValueError unless these are boxes (n, 4), scores (n,) and integer classes (n,)."""
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"boxes: expected a float tensor (n, 4), got {describe(boxes)}")
    for name, value, floating in (("scores", scores, True), ("classes", classes, False)):
        if value.shape != boxes.shape[:1] or value.is_floating_point() != floating:
            kind = "a float" if floating else "an integer"
            raise ValueError(
                f"{name}: expected {kind} tensor ({len(boxes)},), one entry per box, got "
                f"{describe(value)}"
            )
        if value.device != boxes.device:
            raise ValueError(f"{name}: expected a tensor on {boxes.device}, got {describe(value)}")
