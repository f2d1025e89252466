import pytest
import torch
from convert_weights import BACKBONE, convert
from detectron2.modeling.backbone import ResNet
from torch import nn

from ranking_det.layers import deform_convolutions
from ranking_det.modeling import DeepStem, Res2NetBlock


def res2net_101(**options):
    stages = ResNet.make_default_stages(101, Res2NetBlock, norm="BN", **options)
    return ResNet(DeepStem(), stages, out_features=["res2", "res3", "res4", "res5"])


def test_features_agree_with_timm_on_the_same_weights():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    timm_model = timm.create_model(
        "res2net101d", features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    for module in timm_model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
    model, conversion = res2net_101().eval(), convert(timm_model.state_dict())
    assert conversion.kind == "Res2Net" and not conversion.unmapped
    assert any("pools_at_stride_1=True" in note for note in conversion.notes)
    weights = conversion.weights.items()
    model.load_state_dict({name.removeprefix(f"{BACKBONE}."): t for name, t in weights})
    with torch.no_grad():
        images = torch.randn(1, 3, 75, 106)  # odd sizes on several levels
        for feature, expected in zip(model(images).values(), timm_model(images), strict=True):
            assert (feature - expected).abs().max() < 1e-4 * expected.abs().max()


def test_pools_at_stride_1_changes_the_output():
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for pools in (True, False):
        torch.manual_seed(0)
        stages = [
            ResNet.make_stage(
                Res2NetBlock,
                1,
                in_channels=8,
                out_channels=16,
                bottleneck_channels=64,
                pools_at_stride_1=pools,
            )
        ]
        network = ResNet(DeepStem(3, 8), stages, out_features=["res2"]).eval()
        outputs.append(network(images)["res2"])
    assert outputs[0].shape == outputs[1].shape and not torch.allclose(*outputs)


def test_all_three_convolutions_of_a_block_become_deformable():
    stage = ResNet.make_stage(
        Res2NetBlock, 1, in_channels=8, out_channels=16, bottleneck_channels=64
    )
    network = deform_convolutions(ResNet(DeepStem(3, 8), [stage]), ["res2"])
    offsets = {name for name, _ in network.named_modules() if name.endswith("_offset")}
    assert offsets == {f"res2.0.convs_{index}_offset" for index in range(3)}
    assert network(torch.zeros(1, 3, 32, 32))["res2"].shape == (1, 16, 8, 8)


def test_a_stride_without_a_shortcut_raises_value_error():
    with pytest.raises(ValueError, match="stride: expected 1 in a block without shortcut, got 2"):
        Res2NetBlock(16, 16, bottleneck_channels=4, stride=2)
