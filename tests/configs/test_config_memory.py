"""Training memory of the published configs: the counting rules, and a count for each config."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from benchmarks.config_memory import (
    FOLDERS,
    PATH,
    count_memory,
    largest_image,
    published_configs,
    saved_bytes,
)
from ranking_det.losses import rank_sort_loss
from tests.modeling.cases import CONFIGS

COMMITTED_COUNTS = json.loads(PATH.read_text())["configs"]


def test_the_count_of_a_small_network_equals_a_count_by_hand():
    """Convolutions save their inputs; a ReLU saves its output, the next convolution's input."""
    channels, pixels = 5, 12 * 16
    layers = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
    for _ in range(6):  # enough layers that addresses of freed storages are reused
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
    model = nn.Sequential(*layers)
    image = torch.rand(2, 3, 12, 16)
    count = saved_bytes(lambda: model(image), model.parameters())
    assert count == 4 * 2 * pixels * (3 + 7 * channels)
    with_parameters = saved_bytes(lambda: model(image))
    weights = 3 * channels * 9 + 6 * channels**2 * 9  # backward needs no bias
    assert with_parameters == count + 4 * weights


def test_frozen_layers_save_nothing_and_views_of_a_storage_count_once():
    frozen = nn.Conv2d(3, 4, 1).requires_grad_(False)
    image, weight = torch.rand(1, 3, 8, 8), torch.rand(1, requires_grad=True)
    assert saved_bytes(lambda: frozen(image)) == 0
    count = saved_bytes(lambda: [image[:, i] * weight for i in range(3)], [weight])
    assert count == 4 * image.numel()


def test_the_gradients_that_a_ranking_loss_computes_ahead_are_counted():
    logits = torch.randn(1000, requires_grad=True)
    positives = torch.arange(0, 1000, 100)

    def loss():
        return rank_sort_loss(logits, positives, torch.rand(10))

    assert 4 * 1000 <= saved_bytes(loss) <= 2 * 4 * 1000 + 1000


def test_a_count_has_no_backward():
    weight, outputs = torch.rand(4, requires_grad=True), []
    saved_bytes(lambda: outputs.append(weight.square().sum()))
    with pytest.raises(RuntimeError, match="only counts has no backward"):
        outputs[0].backward()


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"short_edge_length": 800, "max_size": 1333}, (800, 1333)),
        ({"short_edge_length": [480, 960], "max_size": 1333}, (960, 1333)),
        ({"shape": [512, 640]}, (512, 640)),
    ],
)
def test_the_image_is_the_largest_that_training_sees(node, expected):
    assert largest_image(OmegaConf.create([{"prob": 0.5}, node])) == expected
    with pytest.raises(ValueError, match="augmentations: expected one that sets the size"):
        largest_image([])


def test_every_published_config_is_counted():
    names = [f"{folder}/{path.stem}" for folder in FOLDERS for path in published_configs(folder)]
    assert list(COMMITTED_COUNTS) == names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco/retinanet_atss_ape_r50_48ep_512"])
def test_a_new_count_equals_the_committed_one(name):
    row = count_memory(CONFIGS / f"{name}.py")
    assert row == COMMITTED_COUNTS[name] | {"activations_per_image": row["activations_per_image"]}
    expected = COMMITTED_COUNTS[name]["activations_per_image"]
    assert row["activations_per_image"] == pytest.approx(expected, rel=0.01)
