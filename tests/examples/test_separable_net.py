"""Tests of examples/separable_net.py: contract with and without an FPN, and a training step."""

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from examples.separable_net import SeparableNet
from tests.contracts import check_backbone
from tests.modeling.cases import CONFIGS, make_batch


@pytest.fixture
def model():
    config = LazyConfig.load(str(CONFIGS.parent / "examples" / "separable_net_shapes.py"))
    torch.manual_seed(0)
    return instantiate(config.model)


@pytest.mark.parametrize("norm", ["BN", ""])
def test_separable_net_satisfies_the_contract_of_backbones(norm):
    check_backbone(SeparableNet(width=8, depth=1, norm=norm))


def test_the_fpn_on_separable_net_satisfies_the_contract_and_has_five_levels(model):
    check_backbone(model.backbone)
    strides = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    assert strides == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}


def test_images_of_any_size_are_padded_for_the_backbone(model):
    losses = model(make_batch((3, 2), sizes=((70, 45), (33, 100))))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.backbone.bottom_up.stem[0].weight.grad.any()


def test_yaml_configs_find_the_backbone_in_the_registry():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.NORM = "BN"
    build = BACKBONE_REGISTRY.get("build_separable_net")
    assert set(build(cfg, ShapeSpec(channels=3)).output_shape()) == {"s3", "s4", "s5"}
