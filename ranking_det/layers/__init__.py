"""Layers and post-processing: CARAFE, deformable convolution, NMS of boxes and masks, cropping.

torch and torchvision only, on any device.

- :class:`CARAFE`, :func:`carafe`: content-aware upsampling (J. Wang et al., ICCV 2019).
- :class:`DeformableConv2d`, :func:`deform_convolutions`: deformable convolution v2 (X. Zhu et al.,
  CVPR 2019) in the place of a network's 3x3 convolutions.
- :class:`HardNMS`: drop duplicate detections (non-maximum suppression).
- :class:`FastNMS`: the same without a loop; dropped detections suppress, too (Bolya et al., ICCV
  2019).
- :class:`SoftNMS`: lower the scores of duplicates instead (Bodla et al., ICCV 2017).
- :class:`ScoreVoting`: average each surviving box with the boxes that overlap it (Kim and Lee, ECCV
  2020).
- :func:`pixels_inside`: the pixels of a mask that are inside a box.
- :func:`matrix_nms`, :func:`points_nms`: suppression of masks on a grid (Wang et al., SOLOv2,
  NeurIPS 2020).
"""

from ranking_det.layers.carafe import CARAFE, carafe
from ranking_det.layers.deformable_conv import DeformableConv2d, deform_convolutions
from ranking_det.layers.grid_suppression import matrix_nms, points_nms
from ranking_det.layers.mask_cropping import pixels_inside
from ranking_det.layers.suppression import FastNMS, HardNMS, ScoreVoting, SoftNMS, Survivors

__all__ = [name for name, value in globals().items() if callable(value)]
