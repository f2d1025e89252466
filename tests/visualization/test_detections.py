"""Draw detections on images."""

import colorsys

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ranking_det.visualization.detections import overlay


def test_colors_slightly_above_1_are_drawn(monkeypatch):
    # In Python 3.10, rounding in colorsys gives such colors.
    to_rgb = colorsys.hls_to_rgb
    monkeypatch.setattr(colorsys, "hls_to_rgb", lambda *hls: (1 + 2**-52, *to_rgb(*hls)[1:]))
    instances = Instances((20, 30))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 25.0, 15.0]]))
    instances.pred_classes = torch.tensor([0])
    picture = overlay(np.zeros((20, 30, 3), np.uint8), instances, ["cat"])
    assert picture.any()
