import sys

import pytest
import torch
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import nn

from ranking_det.layers import deform_convolutions
from ranking_det.modeling import TimmBackbone
from ranking_det.modeling.backbones.timm_backbone import pixel_statistics

timm = pytest.importorskip("timm")

MODELS = [
    "resnet18",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
]


def pyramid(model_name, **options):
    body = TimmBackbone(model_name, **options)
    top = LastLevelP6P7(body.output_shape()["stride32"].channels, 16, "stride32")
    return FPN(body, list(body.output_shape()), 16, top_block=top)


@pytest.mark.parametrize("model_name", MODELS)
def test_an_fpn_on_a_timm_model_has_its_strides_and_trains(model_name):
    torch.manual_seed(0)
    network = pyramid(model_name)
    assert network.size_divisibility == 32
    levels = network(torch.randn(1, 3, 96, 160))
    sizes = {name: tuple(level.shape[-2:]) for name, level in levels.items()}
    assert sizes == {"p3": (12, 20), "p4": (6, 10), "p5": (3, 5), "p6": (2, 3), "p7": (1, 2)}
    for name, feature in network.bottom_up(torch.randn(1, 3, 96, 160)).items():
        shape = network.bottom_up.output_shape()[name]
        assert feature.shape == (1, shape.channels, 96 // shape.stride, 160 // shape.stride)
    sum(level.square().mean() for level in levels.values()).backward()
    missing = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert missing == []


@pytest.mark.parametrize("model_name", ["resnet18", "tf_efficientnet_lite0"])
def test_feature_sizes_of_odd_images_are_rounded_up(model_name):
    features = TimmBackbone(model_name)(torch.zeros(1, 3, 75, 106))
    assert {name: tuple(feature.shape[-2:]) for name, feature in features.items()} == {
        "stride8": (10, 14),
        "stride16": (5, 7),
        "stride32": (3, 4),
    }


def test_features_have_their_strides_if_timm_leaves_out_the_first_ones():
    features = TimmBackbone("dla46x_c")(torch.zeros(1, 3, 64, 64))
    sides = {name: feature.shape[-1] for name, feature in features.items()}
    assert sides == {"stride8": 8, "stride16": 4, "stride32": 2}


@pytest.mark.parametrize("model_name", MODELS[:2] + MODELS[3:])
def test_layers_up_to_the_frozen_stride_do_not_change_in_training(model_name):
    torch.manual_seed(0)
    backbone = TimmBackbone(model_name, (4, 8, 16, 32), frozen_stride=4).train()
    is_frozen = [not weight.requires_grad for weight in backbone.parameters()]
    assert any(is_frozen) and not all(is_frozen)
    early = TimmBackbone(model_name, (4,))
    assert sum(is_frozen) == sum(weight.requires_grad for weight in early.parameters())
    optimizer = torch.optim.SGD([w for w in backbone.parameters() if w.requires_grad], lr=0.1)
    images = torch.randn(2, 3, 64, 64)
    before = backbone(images)
    sum(feature.square().mean() for feature in before.values()).backward()
    optimizer.step()
    after = backbone(images)
    assert torch.equal(before["stride4"], after["stride4"])
    assert not torch.equal(before["stride8"], after["stride8"])


def test_frozen_statistics_leave_weight_and_bias_of_the_norms_trainable():
    backbone = TimmBackbone("resnet18", frozen_statistics=True).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    means = [norm.running_mean.clone() for norm in norms]
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means))
    assert all(norm.weight.requires_grad and not norm.training for norm in norms)
    other_modules = [m for m in backbone.modules() if not isinstance(m, nn.BatchNorm2d)]
    assert all(module.training for module in other_modules)


def test_convolutions_of_a_timm_stage_become_deformable():
    backbone = deform_convolutions(TimmBackbone("resnet18"), ["body.layer3"], 2)
    assert "body.layer3.0.conv1_offset.weight" in backbone.state_dict()
    assert backbone(torch.zeros(1, 3, 64, 64))["stride32"].shape == (1, 512, 2, 2)


def test_the_pixel_statistics_are_those_of_the_weights():
    statistics = pixel_statistics("resnet18")
    assert statistics["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert statistics["pixel_std"] == pytest.approx([58.395, 57.12, 57.375])
    assert statistics["input_format"] == "RGB"


@pytest.mark.parametrize(
    ("model_name", "options", "message"),
    [
        ("resnet81", {}, "model_name: expected a model of timm .*, got 'resnet81' .did you mean"),
        (
            "resnet18",
            {"strides": [8, 7]},
            r"strides: expected some of .*\[2, 4, 8, 16, 32\], ascending",
        ),
        ("resnet18", {"checkpoint_path": "a.pth"}, "options: expected no other source of weights"),
        ("resnet18", {"strides": []}, "strides: expected some of"),
        (
            "vit_tiny_patch16_224",
            {},
            r"strides: expected some of .*\[16\], ascending, got \[8, 16, 32\]",
        ),
        (
            "coat_lite_tiny",
            {},
            "model_name: expected a model of timm that takes images of 64 px, too .*'coat_lite_t",
        ),
        ("resnet18", {"frozen_stride": 5}, r"frozen_stride: expected .*\[2, 4, 8, 16, 32\], got 5"),
    ],
)
def test_wrong_arguments_raise_value_error(model_name, options, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(model_name, **{"strides": (8, 16, 32), **options})


def test_the_error_without_timm_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[timm\]"'):
        TimmBackbone("resnet18")


def test_weights_that_cannot_be_downloaded_raise_value_error(monkeypatch):
    def fail(*args, **options):
        raise OSError("no network\nmore lines")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    message = r"pretrained: expected weights of resnet18 that timm can download \(no network\)"
    with pytest.raises(ValueError, match=message):
        TimmBackbone("resnet18", pretrained=True)
