"""Layers and the last steps of inference: torch and torchvision only, on any device.

- :func:`soft_nms`: lower the scores of duplicates instead of dropping them (Bodla et al., ICCV
  2017).
- :func:`vote_boxes`: average a kept box with its neighbours (Kim and Lee, ECCV 2020).
"""

from ranking_det.layers.score_voting import vote_boxes
from ranking_det.layers.soft_nms import soft_nms

__all__ = ["soft_nms", "vote_boxes"]
