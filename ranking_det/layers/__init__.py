"""Layers and the last steps of inference: torch and torchvision only, on any device.

- :class:`CARAFE`, :func:`carafe`: upsampling by kernels made from the content (J. Wang et al., ICCV
  2019).
- :class:`HardNMS`, :class:`SoftNMS`, :class:`ScoreVoting`: suppression of duplicate detections, as
  parts of a detector.
- :func:`soft_nms`: lower the scores of duplicates instead of dropping them (Bodla et al., ICCV
  2017).
- :func:`vote_boxes`: average a kept box with its neighbours (Kim and Lee, ECCV 2020).
"""

from ranking_det.layers.carafe import CARAFE, carafe
from ranking_det.layers.suppression import (
    HardNMS,
    ScoreVoting,
    SoftNMS,
    Survivors,
    soft_nms,
    vote_boxes,
)

__all__ = [
    "CARAFE",
    "HardNMS",
    "ScoreVoting",
    "SoftNMS",
    "Survivors",
    "carafe",
    "soft_nms",
    "vote_boxes",
]
