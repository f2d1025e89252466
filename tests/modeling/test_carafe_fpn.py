import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch.nn import functional

from ranking_det.modeling import CARAFEFPN

FEATURES = ["res2", "res3", "res4", "res5"]
CHANNELS = 8


def resnet():
    torch.manual_seed(0)
    stages = ResNet.make_default_stages(18, norm="BN")
    return ResNet(BasicStem(norm="BN"), stages, out_features=FEATURES, freeze_at=0)


def resnext():
    """Build a small ResNeXt, with grouped convolutions and features of strides 8 and 16."""
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            1,
            in_channels=channels,
            bottleneck_channels=32,
            out_channels=2 * channels,
            stride_per_block=[stride],
            num_groups=8,
        )
        for channels, stride in ((64, 1), (128, 2), (256, 2))
    ]
    return ResNet(BasicStem(), stages, out_features=["res3", "res4"])


@pytest.fixture
def fpn():
    torch.manual_seed(0)
    return CARAFEFPN(resnet(), FEATURES, CHANNELS).eval()


def test_each_level_is_the_sum_of_its_lateral_and_the_upsampled_level_above(fpn):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = fpn.bottom_up(images)
    merged = {6: fpn.fpn_lateral6(features["res5"])}
    for stage in (5, 4, 3, 2):
        lateral = getattr(fpn, f"fpn_lateral{stage}")(features[f"res{stage}"])
        upsampled = getattr(fpn, f"fpn_upsample{stage + 1}")(merged[stage + 1])
        merged[stage] = lateral + upsampled[:, :, : lateral.shape[2], : lateral.shape[3]]
    levels = fpn(images)
    assert list(levels) == ["p2", "p3", "p4", "p5", "p6"]
    for stage, level in merged.items():
        expected = getattr(fpn, f"fpn_output{stage}")(level)
        torch.testing.assert_close(levels[f"p{stage}"], expected)


def test_p6_is_a_convolution_of_c5_and_affects_all_levels(fpn):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weight = fpn.fpn_lateral6.weight
    assert weight.shape == (CHANNELS, 512, 3, 3) and fpn.fpn_lateral6.stride == (2, 2)
    before = fpn(images)
    with torch.no_grad():
        weight.mul_(2)
    for name, level in fpn(images).items():
        assert not torch.allclose(level, before[name]), name


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (75, 33), (97, 130), (1, 31)])
def test_level_sizes_are_the_image_size_divided_by_the_stride_rounded_up(fpn, height, width):
    levels = fpn(torch.randn(1, 3, height, width))
    for name, level in levels.items():
        stride = fpn.output_shape()[name].stride
        assert level.shape == (1, CHANNELS, -(-height // stride), -(-width // stride)), name


def test_upsampled_levels_lose_the_last_row_and_column(fpn):
    """Maps are aligned at the upper left corner, as a convolution of stride 2 aligns them."""
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    c5 = fpn.bottom_up(images)["res5"]
    assert c5.shape[-2:] == (3, 3)
    upsampled = fpn.fpn_upsample6(fpn.fpn_lateral6(c5))
    assert upsampled.shape[-2:] == (4, 4)
    merged = fpn.fpn_lateral5(c5) + upsampled[:, :, :3, :3]
    torch.testing.assert_close(fpn(images)["p5"], fpn.fpn_output5(merged))


def test_shapes_equal_those_of_detectron2s_fpn_whose_checkpoint_loads_in_part(fpn):
    reference = FPN(resnet(), FEATURES, CHANNELS, top_block=LastLevelMaxPool())
    assert fpn.output_shape() == reference.output_shape()
    assert fpn.size_divisibility == reference.size_divisibility == 32
    keys = fpn.load_state_dict(reference.state_dict(), strict=False)
    assert not keys.unexpected_keys
    new = ("fpn_lateral6.", "fpn_output6.", "fpn_upsample")
    assert keys.missing_keys and all(key.startswith(new) for key in keys.missing_keys)


def test_the_bottom_up_network_may_be_a_resnext():
    bottom_up = resnext()
    fpn = CARAFEFPN(bottom_up, ["res3", "res4"], CHANNELS, norm="BN")
    assert {name: shape.stride for name, shape in fpn.output_shape().items()} == {
        "p3": 8,
        "p4": 16,
        "p5": 32,
    }
    levels = fpn(torch.randn(2, 3, 70, 50))
    assert [level.shape[2] for level in levels.values()] == [9, 5, 3]
    assert fpn.fpn_lateral5.bias is None and fpn.fpn_output3.norm.num_features == CHANNELS
    sum(functional.relu(level).sum() for level in levels.values()).backward()
    for name, parameter in fpn.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_error_names_features_with_unknown_names_or_wrong_strides():
    with pytest.raises(ValueError, match="in_features: expected some of .*res2, res3, res4, res5"):
        CARAFEFPN(resnet(), ["res3", "res6"])
    with pytest.raises(ValueError, match="double from one feature to the next, got .*'res5': 32"):
        CARAFEFPN(resnet(), ["res3", "res5"])


def test_a_channels_last_batch_in_bfloat16_autocast_gives_finite_gradients(fpn):
    images = torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        levels = fpn.train()(images)
    assert all(level.dtype == torch.bfloat16 for level in levels.values())
    sum(level.float().square().sum() for level in levels.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fpn.parameters())


class BackboneWithOddStrides(Backbone):
    """A backbone with strides that are not powers of 2."""

    def forward(self, images):
        raise NotImplementedError

    def output_shape(self):
        return {"a": ShapeSpec(channels=4, stride=6), "b": ShapeSpec(channels=4, stride=12)}


def test_strides_that_are_not_powers_of_2_raise_value_error():
    with pytest.raises(ValueError, match="in_features: expected strides that are powers of 2"):
        CARAFEFPN(BackboneWithOddStrides(), ["a", "b"])
