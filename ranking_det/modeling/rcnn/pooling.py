"""Pooling of proposals in mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def pool_in_float32(pooler: nn.Module) -> None:
    """Let a Detectron2 ROIPooler widen the features under autocast before it pools.

    It gives the boxes the features' type, and in bfloat16 a box at 1,000 px moves by up to 4 px,
    away from its label and its mask.
    """
    pooler.register_forward_pre_hook(_widen)


def _widen(pooler: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    maps, *boxes = args
    if torch.is_autocast_enabled(maps[0].device.type):
        maps = [features.float() for features in maps]
    return (maps, *boxes)
