"""Layers and the last steps of inference: torch and torchvision only, on any device.

- :class:`CARAFE`, :func:`carafe`: upsampling by kernels made from the content (J. Wang et al., ICCV
  2019).
- :func:`soft_nms`: lower the scores of duplicates instead of dropping them (Bodla et al., ICCV
  2017).
- :func:`vote_boxes`: average a kept box with its neighbours (Kim and Lee, ECCV 2020).
"""

from ranking_det.layers.carafe import CARAFE, carafe
from ranking_det.layers.score_voting import vote_boxes
from ranking_det.layers.soft_nms import soft_nms

__all__ = ["CARAFE", "carafe", "soft_nms", "vote_boxes"]
