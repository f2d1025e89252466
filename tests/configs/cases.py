"""Helpers for config tests: build models, and check the backbones that the papers use."""

from typing import NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import BitMasks, Boxes
from omegaconf import OmegaConf
from torch import nn

from ranking_det.layers import DeformableConv2d
from ranking_det.modeling import DeepStem, Res2NetBlock
from tests.modeling.cases import ellipses, make_batch


class Backbone(NamedTuple):
    weights: str
    blocks: tuple[int, ...]  # of res2 to res5
    width: int = 64  # channels of the 3x3 convolutions in res2
    groups: int = 1  # of the 3x3 convolutions
    convolutions: int = 1  # 3x3, per block
    frozen_norms: int = 11  # in the stem and res2


BACKBONES = {
    "r50": Backbone("detectron2://ImageNetPretrained/torchvision/R-50.pkl", (3, 4, 6, 3)),
    "r101": Backbone("R-101.pkl", (3, 4, 23, 3)),
    "x101": Backbone("X-101-64x4d.pkl", (3, 4, 23, 3), width=256, groups=64),
    "r2_101": Backbone("R2-101-v1d.pkl", (3, 4, 23, 3), 26, convolutions=3, frozen_norms=19),
}


_shared = {}  # modules by device and config
LARGE_PARTS = ("backbone", "roi_heads.box_head", "roi_heads.box_heads")


def build_model(cfg, device_of_large_parts="cpu"):
    """Build the model of a config; the models of a process share equal backbones and box heads.

    Args:
        cfg: the config; its large parts become modules.
        device_of_large_parts: "meta" for parts without values, because filling them takes long.
    """
    OmegaConf.resolve(cfg.model)
    for part in LARGE_PARTS:
        node = OmegaConf.select(cfg.model, part)
        if node is not None:
            key = (device_of_large_parts, OmegaConf.to_yaml(node))
            if key not in _shared:
                with torch.device(device_of_large_parts):
                    _shared[key] = instantiate(node)
            OmegaConf.update(cfg.model, part, _shared[key])
    model = instantiate(cfg.model).train()
    model.zero_grad()  # gradients of an earlier test, which shares the backbone
    return model


def check_backbone(bottom_up, name, deformable_groups):
    """Check the layers, strides, frozen parts and norms of a backbone in BACKBONES.

    Args:
        bottom_up: the backbone without its FPN.
        name: a key of BACKBONES.
        deformable_groups: groups of the deformable 3x3 convolutions in res3 to res5, 0 for none.
    """
    expected = BACKBONES[name]
    stages = [getattr(bottom_up, f"res{i}") for i in range(2, 6)]
    assert tuple(len(stage) for stage in stages) == expected.blocks
    assert isinstance(bottom_up.stem, DeepStem) == (name == "r2_101")
    for i, stage in enumerate(stages):
        for j, block in enumerate(stage):
            assert isinstance(block, Res2NetBlock) == (name == "r2_101")
            convolutions = block.convs if name == "r2_101" else [block.conv2]
            assert len(convolutions) == expected.convolutions and block.conv1.stride == (1, 1)
            for conv in convolutions:
                outputs, inputs = conv.weight.shape[:2]
                assert (outputs, outputs // inputs) == (expected.width * 2**i, expected.groups)
                assert conv.stride == ((2, 2) if i > 0 and j == 0 else (1, 1))
                assert isinstance(conv, DeformableConv2d) == (deformable_groups > 0 and i > 0)
    offsets = [layer for key, layer in bottom_up.named_modules() if key.endswith("_offset")]
    count = sum(expected.blocks[1:]) * expected.convolutions if deformable_groups else 0
    assert [layer.out_channels for layer in offsets] == [27 * deformable_groups] * count
    for key, parameter in bottom_up.named_parameters():
        assert parameter.requires_grad != key.startswith(("stem", "res2")), key
    norms = [m for m in bottom_up.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == sum(expected.blocks[1:]) * (expected.convolutions + 2) + 3
    assert not any(norm.training for norm in norms)
    frozen = [m for m in bottom_up.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == expected.frozen_norms


def make_batch_of_all_sizes():
    """Make two images of 256 px; the first has one object per FPN level, of 20 to 250 px."""
    batch = make_batch((5, 2), sizes=((256, 256),), num_classes=8)
    sides = torch.tensor([20.0, 36.0, 70.0, 140.0, 250.0])[:, None]
    boxes = torch.cat([torch.tensor([3.0, 2.0]).expand(5, 2), sides + 3, sides + 2], dim=1)
    batch[0]["instances"].gt_boxes = Boxes(boxes)
    batch[0]["instances"].gt_masks = BitMasks(ellipses(boxes, 256, 256))
    return batch


def check_step(model, batch=None):
    """Check that a step gives finite losses, and finite gradients to trainable parameters only."""
    if batch is None:
        batch = make_batch((3, 0), sizes=((128, 128),), num_classes=80)
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # A sum is finite only if all of its terms are, and is several times as fast.
            assert parameter.grad is not None and parameter.grad.sum().isfinite(), name
        else:
            assert parameter.grad is None, name
