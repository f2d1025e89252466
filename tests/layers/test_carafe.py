import importlib

import pytest
import torch

from ranking_det.layers import CARAFE, carafe
from tests.layers import reference

# The attribute ``carafe`` of the package is the function, not this module.
MODULE = importlib.import_module("ranking_det.layers.carafe")


def inputs(shape, size, group, scale, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    images, _, height, width = shape
    kernels = (images, group * size**2, scale * height, scale * width)
    return [
        torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for sizes in (shape, kernels)
    ]


def reference_on_tensors(features, kernels, size, group, scale):
    """Call the reference on scalar tensors, so autograd gives its gradients."""
    images = []
    for image in zip(features, kernels):
        lists = [[[list(row) for row in channel] for channel in tensor] for tensor in image]
        upsampled = reference.carafe(*lists, size, group, scale)
        images.append(torch.stack([torch.stack([torch.stack(r) for r in c]) for c in upsampled]))
    return torch.stack(images)


CASES = [
    # shape, k, g, s
    ((1, 2, 3, 4), 5, 1, 2),
    ((2, 4, 3, 2), 3, 2, 2),
    ((1, 4, 2, 3), 3, 2, 3),
    ((1, 1, 1, 1), 5, 1, 3),
    ((1, 3, 4, 1), 1, 3, 1),
]


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize(("shape", "size", "group", "scale"), CASES)
def test_values_and_gradients_agree_with_the_reference(
    shape, size, group, scale, block, monkeypatch
):
    monkeypatch.setitem(MODULE.BLOCK_ENTRIES, "cpu", block)
    tensors = inputs(shape, size, group, scale)
    expected = reference_on_tensors(*tensors, size, group, scale)
    upsampled = carafe(*tensors, size, group, scale)
    torch.testing.assert_close(upsampled, expected)
    incoming = torch.randn(upsampled.shape, generator=torch.Generator().manual_seed(1)).double()
    for gradient, expected_gradient in zip(
        torch.autograd.grad(upsampled, tensors, incoming),
        torch.autograd.grad(expected, tensors, incoming),
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def test_the_memory_layout_does_not_change_the_result():
    features, kernels = inputs((2, 4, 5, 3), 3, 2, 2)
    expected = carafe(features, kernels, 3, 2, 2)
    channels_last = [tensor.to(memory_format=torch.channels_last) for tensor in (features, kernels)]
    torch.testing.assert_close(carafe(*channels_last, 3, 2, 2), expected)
    incoming = torch.ones((), dtype=torch.float64).expand_as(expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(carafe(*channels_last, 3, 2, 2), (features, kernels), incoming),
        torch.autograd.grad(expected, (features, kernels), torch.ones_like(expected)),
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def with_distinct_kernels(group=1, scale=2):
    """Make a CARAFE layer whose kernels differ from pixel to pixel."""
    torch.manual_seed(0)
    module = CARAFE(8, scale=scale, group=group)
    torch.nn.init.normal_(module.encoder.weight, std=0.5)
    return module


@pytest.mark.parametrize(("group", "scale"), [(1, 2), (2, 2), (4, 3)])
def test_kernels_sum_to_1_and_preserve_constant_features_inside_the_border(group, scale):
    module = with_distinct_kernels(group, scale)
    kernels = module.kernels(torch.randn(2, 8, 7, 6))
    assert kernels.shape == (2, 25 * group, 7 * scale, 6 * scale)
    sums = kernels.unflatten(1, (group, 25)).sum(dim=2)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert kernels.std(dim=1).min() > 1e-3
    upsampled = carafe(torch.full((2, 8, 7, 6), 3.0), kernels, 5, group, scale)
    inside = upsampled[:, :, 2 * scale : -2 * scale, 2 * scale : -2 * scale]
    torch.testing.assert_close(inside, torch.full_like(inside, 3.0))
    assert (upsampled[:, :, 0] < 3.0).all() and upsampled[:, :, 0].mean() < 2.5


def test_a_new_layer_gives_about_the_mean_of_each_window():
    torch.manual_seed(0)
    module = CARAFE(8)
    features = torch.randn(1, 8, 6, 5)
    mean = torch.nn.functional.avg_pool2d(features, 5, stride=1, padding=2)
    expected = mean.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module(features), expected, rtol=0, atol=0.01)
    assert module.compressor.weight.shape == (64, 8, 1, 1)
    assert module.encoder.weight.shape == (100, 64, 3, 3)


def test_bfloat16_under_autocast_is_close_to_float32():
    module = with_distinct_kernels()
    features = torch.randn(2, 8, 9, 7)
    results = []
    for enabled in (False, True):
        module.zero_grad()
        leaf = features.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            layer_input = leaf.bfloat16() if enabled else leaf
            assert module.kernels(layer_input).dtype == torch.float32
            upsampled = module(layer_input)
        assert upsampled.dtype == layer_input.dtype and upsampled.shape == (2, 8, 18, 14)
        upsampled.float().square().sum().backward()
        gradients = [p.grad for p in module.parameters()]
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        results.append([upsampled.float(), leaf.grad, *gradients])
    for exact, rounded in zip(*results):
        assert (rounded - exact).norm() < 0.03 * exact.norm()


def test_the_error_names_the_wrong_argument():
    features, kernels = inputs((1, 4, 3, 3), 3, 2, 2)
    with pytest.raises(ValueError, match="kernel_size: expected an odd number, got 4"):
        carafe(features, kernels, 4, 2, 2)
    with pytest.raises(ValueError, match="features: .* multiple of group = 3, got .*4, 3, 3"):
        carafe(features, kernels, 3, 3, 2)
    with pytest.raises(ValueError, match=r"kernels: expected shape \(1, 9, 6, 6\) on cpu, got"):
        carafe(features, kernels, 3, 1, 2)
    with pytest.raises(ValueError, match="group: expected a divisor of channels = 8, got 3"):
        CARAFE(8, group=3)
    with pytest.raises(ValueError, match="up_kernel: expected an odd number, got 2"):
        CARAFE(8, up_kernel=2)
