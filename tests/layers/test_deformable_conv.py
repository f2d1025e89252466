import copy

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import (
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
)
from torch import nn
from torch.nn import functional

from ranking_det.layers import DeformableConv2d, deform_convolutions
from tests.layers import reference


class Block(nn.Module):
    """A block with one convolution."""

    def __init__(self, channels=4, out_channels=6, **options):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, **{"padding": 1, **options})

    def forward(self, features):
        return self.conv(features)


def deformable(deformable_groups=1, seed=0, std=0.7, **options):
    """Make a float64 block whose offsets and masks differ from pixel to pixel."""
    torch.manual_seed(seed)
    block = deform_convolutions(Block(**options), ["conv"], deformable_groups).double()
    nn.init.normal_(block.conv_offset.weight, std=std)
    nn.init.normal_(block.conv_offset.bias, std=std)
    return block


def features(height=5, width=6, channels=4, images=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("deformable_groups", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": (1, 2), "padding": (2, 0), "bias": False},
        {"padding": 2, "dilation": 2},
        {"groups": 2},
    ],
)
def test_the_output_agrees_with_a_loop_over_the_definition(deformable_groups, options):
    block, inputs = deformable(deformable_groups, **options), features()
    with torch.no_grad():
        predicted = block.conv_offset(inputs)
        expected = reference.deformable_conv(inputs, predicted, block.conv)
        torch.testing.assert_close(block(inputs), expected)


def test_zero_offsets_and_a_mask_of_one_give_the_plain_convolution():
    plain = Block(stride=2).double()
    block = deform_convolutions(copy.deepcopy(plain), ["conv"])
    with torch.no_grad():
        torch.testing.assert_close(
            block(features()) - block.conv.bias[:, None, None],
            0.5 * (plain(features()) - plain.conv.bias[:, None, None]),
        )
        block.conv_offset.bias[18:] = 100  # the sigmoid is 1
        torch.testing.assert_close(block(features()), plain(features()))


def test_the_gradients_agree_with_finite_differences():
    block = deformable(2, channels=2, out_channels=2, std=0.3)
    inputs = features(3, 3, channels=2, images=1).requires_grad_()
    parameters = dict(block.named_parameters())

    def call(inputs, *values):
        return torch.func.functional_call(block, dict(zip(parameters, values)), (inputs,))

    assert len(parameters) == 4
    assert torch.autograd.gradcheck(call, (inputs, *parameters.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    block = deformable(std=0.1).float()
    inputs = features().float()
    expected = block(inputs)
    with torch.autocast("cpu", dtype=dtype):
        result = block(inputs)
    torch.testing.assert_close(result, expected, rtol=0.1, atol=0.1)
    low = copy.deepcopy(block).to(dtype)(inputs.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.1)


def test_an_empty_batch_and_a_meta_tensor_have_the_shape_of_the_plain_convolution():
    block = deformable(stride=2)
    assert block(features()[:0]).shape == (0, 6, 3, 3)
    assert block.to("meta")(features().to("meta")).shape == (2, 6, 3, 3)


def resnet(block_class, **options):
    """Make a ResNet with bottlenecks of 8, 16 and 32 channels."""
    stages = [
        ResNet.make_stage(
            block_class if i else BottleneckBlock,
            2,
            stride_per_block=[1 if i == 0 else 2, 1],
            in_channels=16 if i == 0 else 16 * 2 ** (i - 1),
            out_channels=16 * 2**i,
            bottleneck_channels=8 * 2**i,
            **(options if i else {}),
        )
        for i in range(3)
    ]
    return ResNet(BasicStem(3, 16), stages, out_features=["res3", "res4"])


def test_a_resnet_has_the_state_dict_of_detectron2s_deformable_blocks():
    network = deform_convolutions(resnet(BottleneckBlock), ["res3", "res4"], deformable_groups=4)
    options = {"deform_modulated": True, "deform_num_groups": 4}
    try:
        detectron2_state = resnet(DeformBottleneckBlock, **options).state_dict()
    except ImportError as error:  # Detectron2's main branch without its compiled operators
        pytest.skip(str(error))
    state = network.state_dict()
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in detectron2_state.items()
    }
    assert "res3.0.conv2_offset.weight" in state
    network.load_state_dict(detectron2_state)
    names = [name for name, _ in network.named_parameters()]
    assert sorted(names) == sorted(
        k for k in detectron2_state if k in dict(network.named_parameters())
    )
    assert network(torch.zeros(1, 3, 64, 64))["res4"].shape == (1, 64, 4, 4)


def test_the_norm_and_activation_of_the_convolution_are_kept():
    conv = Conv2d(4, 4, 3, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=nn.ReLU())
    inputs = features().float()
    with torch.no_grad():
        expected = conv.activation(
            conv.norm(0.5 * functional.conv2d(inputs, conv.weight, padding=1))
        )
    network = nn.Module()
    network.conv = conv
    deform_convolutions(network, ["conv"])
    assert set(network.state_dict()) >= {"conv.weight", "conv.norm.weight", "conv_offset.bias"}
    torch.testing.assert_close(network.conv(inputs), expected)


def test_the_offset_layers_of_convolutions_in_a_list_belong_to_the_block_around_it():
    block = nn.Module()
    block.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
    network = nn.Module()
    network.stage = nn.Sequential(block)
    deform_convolutions(network, ["stage"])
    assert [type(conv) for conv in block.convs] == [DeformableConv2d] * 2
    names = {name.rpartition(".")[0] for name in network.state_dict()}
    lists = {"stage.0.convs.0", "stage.0.convs.1"}
    assert names == lists | {"stage.0.convs_0_offset", "stage.0.convs_1_offset"}


def test_a_copy_uses_its_own_offset_layer():
    block = deformable()
    twin = copy.deepcopy(block)
    nn.init.zeros_(twin.conv_offset.weight)
    assert not torch.allclose(block(features()), twin(features()))


def test_the_offset_layer_of_a_frozen_convolution_is_frozen():
    block = Block().requires_grad_(False)
    deform_convolutions(block, ["conv"])
    assert not any(parameter.requires_grad for parameter in block.parameters())


@pytest.mark.parametrize(
    ("stages", "groups", "message"),
    [
        (["res9"], 1, r"stages: expected names of submodules \(conv, ...\), got 'res9'"),
        (["conv.a"], 1, r"stages: expected names of submodules \(conv.norm, ...\), got 'conv.a'"),
        (["conv"], 3, "deformable_groups: expected a divisor of 4 channels, got 3"),
        (["conv"], 0, "deformable_groups: expected an integer of at least 1, got 0"),
    ],
)
def test_wrong_stages_and_groups_raise_value_error(stages, groups, message):
    block = Block()
    block.conv.norm = nn.Identity()
    with pytest.raises(ValueError, match=message):
        deform_convolutions(block, stages, groups)


def test_a_stage_without_3x3_convolutions_raises_value_error():
    with pytest.raises(ValueError, match="stages: expected stages with 3x3 convolutions"):
        deform_convolutions(nn.ModuleDict({"a": nn.Conv2d(4, 4, 1)}), ["a"])


def test_a_container_of_layers_does_not_run_the_offset_layer():
    stages = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    network = nn.Module()
    network.stages = nn.ModuleDict({"a": stages})
    deform_convolutions(network, ["stages.a"])
    assert network.stages["a"](torch.zeros(1, 4, 5, 5)).shape == (1, 2, 5, 5)
    assert list(network.stages) == ["a"] and len(stages) == 2
    assert network.stages_a_0_offset.in_channels == network.stages_a_1_offset.in_channels == 4
    with pytest.raises(ValueError, match="network: expected a module around .*, got 'Sequential'"):
        deform_convolutions(nn.Sequential(nn.Conv2d(4, 4, 3)), ["0"])


@pytest.mark.parametrize("second", ["conv", "conv_offset"])
def test_a_deformable_stage_is_not_made_deformable_again(second):
    block = nn.Module()
    block.stage = Block()
    deform_convolutions(block, ["stage"])
    with pytest.raises(ValueError, match="stages: expected stages that are not deformable yet"):
        deform_convolutions(block, ["stage"])
    with pytest.raises(ValueError, match="stages: expected .*, got 'stage.conv"):
        deform_convolutions(block, [f"stage.{second}"])


class SameConv2d(nn.Conv2d):
    """A convolution that pads in its forward pass, as timm's do."""

    def forward(self, features):
        return super().forward(functional.pad(features, (1, 1, 1, 1)))


@pytest.mark.parametrize(
    "conv", [SameConv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")]
)
def test_a_convolution_with_other_padding_is_not_made_deformable(conv):
    network = nn.ModuleDict({"a": Block(), "b": conv})
    message = rf"stages: expected 3x3 convolutions with zero padding, got '{type(conv).__name__} b'"
    with pytest.raises(ValueError, match=message):
        deform_convolutions(network, ["b"])
