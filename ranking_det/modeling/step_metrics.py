"""The one place where models write to Detectron2's event storage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor


def log_metrics(metrics: Mapping[str, Tensor], prefix: str = "") -> None:
    """Write detached scalars to the step's event storage, with one copy to the host.

    Outside a trainer there is no storage, and nothing is written.

    Args:
        metrics: the scalars by name.
        prefix: of the names, for detectors with several criteria; ``"rpn/"``.
    """
    try:
        storage = get_event_storage()
    except AssertionError:  # both Detectron2s raise it; only upstream main has a query
        return
    if metrics:
        values = torch.stack([value.detach().double() for value in metrics.values()]).tolist()
        names = [prefix + name for name in metrics]
        storage.put_scalars(**dict(zip(names, values, strict=True)))
