"""Layers and the last steps of inference: torch and torchvision only, on any device.

- :class:`CARAFE`, :func:`carafe`: upsampling by kernels made from the content (J. Wang et al., ICCV
  2019).
- :class:`HardNMS`: drop duplicate detections.
- :class:`SoftNMS`: lower the scores of duplicates instead (Bodla et al., ICCV 2017).
- :class:`ScoreVoting`: average each surviving box with its neighbours (Kim and Lee, ECCV 2020).
"""

from ranking_det.layers.carafe import CARAFE, carafe
from ranking_det.layers.suppression import HardNMS, ScoreVoting, SoftNMS, Survivors

__all__ = [name for name, value in globals().items() if callable(value)]
