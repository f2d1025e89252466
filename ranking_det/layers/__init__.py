"""Layers and post-processing: CARAFE upsampling, NMS, Soft-NMS and score voting.

torch and torchvision only, on any device.

- :class:`CARAFE`, :func:`carafe`: content-aware upsampling (J. Wang et al., ICCV 2019).
- :class:`HardNMS`: drop duplicate detections (non-maximum suppression).
- :class:`SoftNMS`: lower the scores of duplicates instead (Bodla et al., ICCV 2017).
- :class:`ScoreVoting`: average each surviving box with the boxes that overlap it (Kim and Lee, ECCV
  2020).
"""

from ranking_det.layers.carafe import CARAFE, carafe
from ranking_det.layers.suppression import HardNMS, ScoreVoting, SoftNMS, Survivors

__all__ = [name for name, value in globals().items() if callable(value)]
