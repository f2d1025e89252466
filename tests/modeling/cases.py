"""Shared cases of the model tests: config nodes, ground truth and batches."""

import functools
from copy import deepcopy
from pathlib import Path

import torch
from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.nn import functional

CONFIGS = Path(__file__).parents[2] / "configs"


@functools.cache
def _loaded(path):
    return LazyConfig.load(str(path))


def load(name, folder="shapes"):
    """Load a config of a folder of configs/ from a cache, because executing it is slow."""
    return deepcopy(_loaded(CONFIGS / folder / name))


def load_masked_cascade(mask_heads=3):
    """Load the model node of the quick cascade, with the mask heads of the quick Mask R-CNN."""
    model, mask_rcnn_heads = (
        load("quick/cascade_rs.py").model,
        load("quick/mask_rs.py").model.roi_heads,
    )
    for name in ("mask_in_features", "mask_pooler"):
        model.roi_heads[name] = mask_rcnn_heads[name]
    mask_rcnn_heads.mask_head.num_classes = "${...num_classes}"
    model.roi_heads.mask_heads = [mask_rcnn_heads.mask_head] * mask_heads
    for criterion in model.roi_heads.criteria[:mask_heads]:
        criterion.localization = mask_rcnn_heads.criterion.localization
    return model


class Pyramid(Backbone):
    """A cheap backbone with five levels of 8 channels, the finest of stride 2^first."""

    def __init__(self, first=3):
        super().__init__()
        self.levels = range(first, first + 5)
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in self.levels)

    def forward(self, images):
        pooled = [functional.avg_pool2d(images, 2**i, ceil_mode=True) for i in self.levels]
        return {f"p{i}": conv(x) for i, conv, x in zip(self.levels, self.convs, pooled)}

    def output_shape(self):
        return {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in self.levels}


def ellipses(boxes, height, width):
    """Make elliptic masks (n, height, width) that fill their boxes (n, 4) except the corners."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    across = (2 * x - x1 - x2) / (x2 - x1).clamp(min=1e-6)
    down = (2 * y - y1 - y2) / (y2 - y1).clamp(min=1e-6)
    return across.square() + down.square() < 1


def make_instances(count, height, width, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
    extent = 8 + torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.3
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    instances.gt_classes = torch.randint(0, num_classes, (count,), generator=generator)
    instances.gt_masks = BitMasks(ellipses(instances.gt_boxes.tensor, height, width))
    return instances


def make_batch(counts, sizes=((96, 96),), num_classes=12):
    batch = []
    for i, count in enumerate(counts):
        height, width = sizes[i % len(sizes)]
        generator = torch.Generator().manual_seed(i)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        instances = make_instances(count, height, width, num_classes, seed=i)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch
