import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import FPN
from torch import nn
from torch.nn import functional

from ranking_det.modeling import BilinearFPN
from ranking_det.modeling.backbones.backbone_parts import ExtraLevels


class Stages(Backbone):
    """Two stages of strides 8 and 16, with maps of sizes rounded up, as ResNet's."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))

    def forward(self, images):
        return {
            f"res{i + 3}": conv(functional.avg_pool2d(images, 2 ** (i + 3), ceil_mode=True))
            for i, conv in enumerate(self.convs)
        }

    def output_shape(self):
        return {f"res{i}": ShapeSpec(channels=4, stride=2**i) for i in (3, 4, 5)}


def build(kind=BilinearFPN, top_block=True):
    torch.manual_seed(0)
    extra = ExtraLevels(4, 6) if top_block else None
    return kind(Stages(), ["res3", "res4", "res5"], 6, top_block=extra)


def resize_by_loop(maps, size):
    """Resize maps (C, h, w) bilinearly; the centers of the pixels are at half-integers."""
    channels, height, width = maps.shape
    resized = torch.zeros(channels, *size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = max((i + 0.5) * height / size[0] - 0.5, 0)
            x = max((j + 0.5) * width / size[1] - 0.5, 0)
            top, left = math.floor(y), math.floor(x)
            for r, vertical in ((top, 1 - y + top), (top + 1, y - top)):
                for c, horizontal in ((left, 1 - x + left), (left + 1, x - left)):
                    pixel = maps[:, min(r, height - 1), min(c, width - 1)]
                    resized[:, i, j] += vertical * horizontal * pixel
    return resized


@torch.no_grad()
@pytest.mark.parametrize("size", [(70, 41), (64, 96), (9, 130), (1, 1)])
def test_the_pyramid_agrees_with_a_loop_over_its_definition(size):
    fpn, images = build(), torch.randn(2, 3, *size)
    features, pyramid = fpn.bottom_up(images), fpn(images)
    level, expected = None, {}
    for stage in (5, 4, 3):
        lateral = fpn.get_submodule(f"fpn_lateral{stage}")(features[f"res{stage}"])
        if level is not None:
            lateral = lateral + torch.stack([resize_by_loop(x, lateral.shape[2:]) for x in level])
        level = lateral
        expected[f"p{stage}"] = fpn.get_submodule(f"fpn_output{stage}")(level)
    expected["p6"] = fpn.top_block.p6(features["res5"])
    expected["p7"] = fpn.top_block.p7(expected["p6"])
    assert list(pyramid) == ["p3", "p4", "p5", "p6", "p7"]
    for name, feature in pyramid.items():
        torch.testing.assert_close(feature, expected[name])
        cells = [math.ceil(side / fpn.output_shape()[name].stride) for side in size]
        assert list(feature.shape[2:]) == cells
    assert fpn.size_divisibility == 0


def test_the_parameters_are_those_of_detectron2s_fpn():
    bilinear, nearest = (build(kind, top_block=False) for kind in (BilinearFPN, FPN))
    bilinear.load_state_dict(nearest.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32)  # the coarsest map has one cell, so both resize it equally
    with torch.no_grad():
        coarse = [fpn(images)["p5"] for fpn in (bilinear, nearest)]
    torch.testing.assert_close(*coarse)
