"""Log the metrics of a training step to Detectron2's event storage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor


def log_metrics(metrics: Mapping[str, Tensor], prefix: str = "") -> None:
    """Log scalars to the event storage of the training step, with one copy to the host.

    Outside a trainer there is no event storage, and nothing is logged.

    Args:
        metrics: the scalars by name.
        prefix: prefix of the names, such as ``"rpn/"``, for detectors with several criteria.
    """
    try:
        storage = get_event_storage()
    except AssertionError:  # Detectron2 0.6 has no function that tells whether there is a storage
        return
    if metrics:
        values = torch.stack([value.detach().double() for value in metrics.values()]).tolist()
        names = [prefix + name for name in metrics]
        storage.put_scalars(**dict(zip(names, values, strict=True)))
