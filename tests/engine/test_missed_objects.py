"""Counts of objects without a positive, by input size."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.structures import Boxes, Instances
from torch import nn

from ranking_det.data.object_statistics import SCALES, ImageObjects
from ranking_det.engine import missed_objects
from ranking_det.engine.missed_objects import count_positives, input_sizes
from ranking_det.engine.preview import draw_previews
from ranking_det.engine.run_config import load_config
from ranking_det.modeling import interface_of
from ranking_det.user_errors import UserError
from tests.data.formats.cases import make_image
from tests.modeling.cases import make_batch
from tests.modeling.test_combinations import build


def image_objects(folder, count, num_objects=6):
    """Images of 256 x 192, which the quick configs halve, with objects of 2 to 60 pixels."""
    rng, images = np.random.default_rng(0), []
    for index in range(count):
        corners = rng.uniform(0, 130, (num_objects, 2))
        sides = 2 ** rng.uniform(1, 5.9, (num_objects, 2))
        path = str(make_image(folder / f"{index}.png", (256, 192), seed=index))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        classes = rng.integers(0, 12, num_objects)
        images.append(ImageObjects(path, path, (256, 192), boxes, classes, [None] * num_objects))
    return images


def batch_of(config, images, factor):
    """Return the images as training gets them, resized by ``factor``."""
    mapper, batch = config.mapper("test"), []
    for image in images:
        pixels = mapper({"file_name": image.path, "width": 256, "height": 192})["image"]
        pixels = nn.functional.interpolate(pixels[None].float(), scale_factor=factor)[0]
        instances = Instances(tuple(pixels.shape[-2:]))
        boxes = image.boxes * pixels.shape[-1] / 256
        instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.as_tensor(image.classes)
        batch.append({"image": pixels, "instances": instances})
    return batch


@pytest.mark.parametrize("name", ["retinanet_atss_rs", "mask_rs", "retinanet_paa_rs"])
def test_the_counts_equal_those_of_a_preview(name, tmp_path):
    config = load_config(f"configs/shapes/quick/{name}.py", [])
    images = image_objects(tmp_path, 3)
    model = config.model().train()
    counts = count_positives(config, model, images)
    assert (counts.images, counts.of_images, counts.objects) == (3, 3, 18)
    assert [part.scale for part in counts.inputs] == list(SCALES)
    unscaled = counts.inputs[SCALES.index(1.0)]
    assert (unscaled.width, unscaled.height) == (128, 96)
    summary = draw_previews(model, [batch_of(config, images, 1)], 3, tmp_path / "preview")
    assert summary.objects == 18 and unscaled.missed == summary.without_positive
    if name == "retinanet_atss_rs":
        assert unscaled.missed > 0
        for scale in (0.5, 2.0):
            positives = model.find_positives(batch_of(config, images, scale))
            missed = sum(6 - len(set(each.index.tolist())) for each in positives)
            assert counts.inputs[SCALES.index(scale)].missed == missed
    for part in counts.inputs:
        assert sum(part.missed_by_size) == part.missed
    assert sum(part.count for part in counts.by_size) == 18


def test_missing_images_are_skipped_only_if_the_assigner_needs_predictions(tmp_path):
    images = image_objects(tmp_path, 3)
    images[1] = images[1]._replace(path=None)
    for name, expected in (("retinanet_atss_rs", 3), ("retinanet_paa_rs", 2)):
        config = load_config(f"configs/shapes/quick/{name}.py", [])
        model = config.model().train()
        assert count_positives(config, model, images).images == expected
    missing = [image._replace(path=None) for image in images]
    assert count_positives(config, model, missing) is None


def test_the_number_of_images_and_the_time_are_limited(tmp_path, monkeypatch):
    config = load_config("configs/shapes/quick/retinanet_atss_rs.py", [])
    model, images = config.model().train(), image_objects(tmp_path, 4)
    monkeypatch.setattr(missed_objects, "BATCH", 2)
    monkeypatch.setattr(missed_objects, "SCALES", (1.0,))
    limited = count_positives(config, model, images, max_images=3)
    assert (limited.images, limited.of_images) == (3, 4)
    assert count_positives(config, model, images, max_seconds=0).images == 2
    assert count_positives(config, model, images, max_images=3) == limited


class CustomMapper:
    """A mapper whose augmentations are unknown."""

    def __call__(self, record):
        return record


def test_a_model_without_positives_gives_no_counts_and_an_unknown_mapper_raises_user_error(
    tmp_path,
):
    config = load_config("configs/shapes/quick/retinanet_atss_rs.py", [])
    images = image_objects(tmp_path, 1)
    assert count_positives(config, nn.Identity(), images) is None
    config.nodes.dataloader.test.mapper = L(CustomMapper)()
    with pytest.raises(UserError, match="test.mapper: expected DatasetMapper or BoxMapper"):
        input_sizes(config, images)


def test_input_sizes_are_those_of_the_test_mapper():
    config = load_config("configs/shapes/quick/retinanet_atss_rs.py", [])
    missing = np.zeros((0, 4)), np.zeros(0, np.int64), []
    images = [ImageObjects("x", None, size, *missing) for size in ((256, 192), (50, 100))]
    assert input_sizes(config, images).tolist() == [[128, 96], [64, 128]]


class Recorder(nn.Module):
    """A layer that keeps the device of its inputs; it may refuse the meta device."""

    def __init__(self, layer, refuses):
        super().__init__()
        self.layer, self.refuses, self.devices = layer, refuses, []

    def forward(self, inputs):
        self.devices.append(inputs.device.type)
        if self.refuses:
            inputs = torch.from_numpy(inputs.detach().numpy().copy())
        return self.layer(inputs)


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("assigner", ["atss", "paa_rs"])
def test_positives_of_anchor_based_assigners_are_found_without_features(assigner, refuses):
    model, batch = build("retinanet", assigner, "rs"), make_batch((3, 2))
    expected = model.find_positives(batch)
    recorder = Recorder(model.head.cls_subnet[0], refuses)
    model.head.cls_subnet[0] = recorder
    positives = model.find_positives(batch)
    needs_images = interface_of(model).positives_need_images
    assert needs_images == (assigner == "paa_rs")
    assert ("meta" in recorder.devices) != needs_images
    assert ("cpu" in recorder.devices) == (needs_images or refuses)
    for first, second in zip(expected, positives):
        assert torch.equal(first.index, second.index) and torch.equal(first.boxes, second.boxes)
