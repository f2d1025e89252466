"""Errors of libraries name the part of the run; errors in programs keep their traceback."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ranking_det.engine.part_errors import part_error
from ranking_det.engine.run_checks import check_batch_norm
from ranking_det.user_errors import UserError


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Sequential(nn.Conv2d(5, 2, 3))

    def forward(self, images):
        return self.head(self.stem(images))


class FaultyDetector(Detector):
    def forward(self, images):
        raise ValueError("a bug")


def error_of(function, *args):
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.value


def test_the_innermost_layer_that_fails_is_named():
    model = Detector()
    error = part_error(error_of(model, torch.zeros(1, 3, 8, 8)), model)
    assert str(error).startswith("the layer 'head.0' of the model fails: ")
    assert "to have 5 channels, but got 4 channels" in str(error) and "\n" not in str(error)


def test_the_optimizer_and_the_backward_pass_are_named():
    model = Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = "fast"
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    assert str(part_error(error_of(optimizer.step), model)).startswith("the optimizer fails: ")
    loss = model.stem(torch.zeros(1, 3, 8, 8))  # not a scalar
    error = part_error(error_of(loss.backward), model)
    assert str(error).startswith("the backward pass of the model fails: ")


def test_the_error_of_batch_normalization_of_one_value_has_a_remedy():
    model = nn.Sequential(nn.BatchNorm2d(3))
    error = str(part_error(error_of(model, torch.zeros(1, 3, 1, 1)), model))
    assert error.startswith("the layer '0' of the model fails: Expected more than 1 value per")
    assert error.endswith("; use at least 2 images per process, or larger images")


class NormalizedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3, stride=32, padding=1), nn.BatchNorm2d(2))

    def forward(self, batch):
        maps = self.layers(torch.zeros(1, 3, *batch[0]["image"].shape[-2:], device="meta"))
        return maps.nonzero()  # which the meta device does not have


def test_an_image_too_small_for_batch_normalization_is_rejected_before_training():
    model = NormalizedModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_batch_norm(model, {"image": torch.zeros(3, 32, 33)}, "batch")
    message = "^batch: expected at least 2 images per process, got 1; .* 'a.png' of 30 x 20 px"
    with pytest.raises(UserError, match=message):
        check_batch_norm(model, {"image": torch.zeros(3, 20, 30), "file_name": "a.png"}, "batch")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_programming_error_names_no_part_of_the_run():
    model = FaultyDetector()
    assert part_error(error_of(model, torch.zeros(1, 3, 8, 8)), model) is None
    assert part_error(error_of(torch.zeros, "text"), model) is None  # in no part of the run


class FailingImages(torch.utils.data.Dataset):
    """Images whose loading fails, in a library or in a program."""

    def __init__(self, load):
        self.load = load

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.load(index)


def fail_in_a_program(index):
    raise ValueError("a bug")


def fail_in_a_library(index):
    return nn.Conv2d(3, 4, 3)(torch.zeros(1, 5, 8, 8))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_library_in_a_data_loader_is_named(num_workers):
    def load(function):
        loader = DataLoader(FailingImages(function), num_workers=num_workers)
        return part_error(error_of(next, iter(loader)), Detector())

    error = str(load(fail_in_a_library))
    assert error.startswith("the data loader fails: ") and "\n" not in error
    assert "to have 3 channels, but got 5 channels" in error
    assert load(fail_in_a_program) is None
