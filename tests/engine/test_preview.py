"""Previews: the positives of training, pictures, and drawn detections."""

import logging
import re

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from matplotlib.image import imread
from torch import nn

from ranking_det.engine.preview import draw_previews, to_rgb
from ranking_det.modeling import interface_of
from ranking_det.user_errors import UserError
from ranking_det.visualization import preview_image
from tests.modeling.cases import load, make_batch
from tests.modeling.test_combinations import build


def insert_batch_norm(model):
    """Insert a batch norm into the head; a training step would change its statistics."""
    if hasattr(model, "proposal_generator"):
        conv = model.proposal_generator.rpn_head.conv
        model.proposal_generator.rpn_head.conv = nn.Sequential(nn.BatchNorm2d(64), conv)
        return model
    channels = model.head.cls_subnet[0].out_channels
    model.head.cls_subnet.insert(1, nn.BatchNorm2d(channels))
    return model


def training_positives(model, batch):
    """Return the positives of a training step: the anchors and object indices of each image."""
    calls, part = [], getattr(model, "proposal_generator", model)
    gather = part.gather
    part.gather = lambda *args: calls.append((args[2], gather(*args))) or calls[-1][1]
    with EventStorage():
        model(batch)
    del part.gather
    (assignment, candidates), image, first = *calls, 0, 0
    rows = torch.nonzero(assignment.labels >= 0).squeeze(1)
    expected = []
    for i, inputs in enumerate(batch):
        image = candidates.image[rows] == i
        expected.append((candidates.boxes.anchors[image], assignment.gt_index[rows][image] - first))
        first += len(inputs["instances"])
    return expected


MODELS = {
    f"{name}_{assigner}": lambda name=name, assigner=assigner: build(name, assigner, "rs")
    for name in ("retinanet", "fcos")
    for assigner in ("atss", "paa_rs")
} | {
    name: lambda name=name: instantiate(load(f"quick/{name}.py").model)
    for name in ("mask_rs", "cascade_rs")
}


@pytest.mark.parametrize("name", MODELS)
def test_a_preview_has_the_positives_of_training_and_keeps_batch_norm_statistics(name):
    model = insert_batch_norm(MODELS[name]())
    batch = make_batch((3, 0, 2), sizes=((96, 96), (64, 160)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    positives = interface_of(model).find_positives(batch)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    expected = training_positives(model, batch)
    # A training step does change the statistics, so the check above is meaningful.
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert sum(len(image.index) for image in positives) > 0
    for (anchors, index, *_), (expected_anchors, expected_index) in zip(positives, expected):
        assert torch.equal(anchors, expected_anchors) and torch.equal(index, expected_index)
        assert not anchors.requires_grad


def test_the_summary_and_the_pictures_count_the_positives(tmp_path, monkeypatch):
    titles, labels = [], []
    original, draw = preview_image._write_around, preview_image._draw_object
    monkeypatch.setattr(
        preview_image,
        "_write_around",
        lambda f, title, c: titles.append(title) or original(f, title, c),
    )
    monkeypatch.setattr(
        preview_image, "_draw_object", lambda *args: labels.append(args[2:]) or draw(*args)
    )
    model = build("retinanet", "max_iou", "rs")
    model.assigner.low_quality = None
    batches = [make_batch((4, 2)), make_batch((3, 3))]
    batches[0][0]["instances"].gt_boxes.tensor[1] = torch.tensor([1.0, 1.0, 3.0, 3.0])
    summary = draw_previews(model, iter(batches), 3, tmp_path, ["class"] * 12)
    images = model.find_positives(batches[0]) + model.find_positives(batches[1][:1])
    counts = [torch.bincount(image.index, minlength=n) for image, n in zip(images, (4, 2, 3))]
    assert counts[0][1] == 0 and sum(c.sum() for c in counts) > 0
    assert summary == (3, 9, sum(c.sum() for c in counts), sum((c == 0).sum() for c in counts))
    assert labels == [("class", i, n) for c in counts for i, n in enumerate(c.tolist())]
    assert f"4 objects, {counts[0].sum()} positive" in titles[0]
    assert "WITHOUT A POSITIVE" in titles[0]
    names = [f"preview_000{i}.png" for i in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_the_log_counts_the_objects_and_those_without_a_positive_in_one_line(tmp_path, caplog):
    model, batch = build("fcos", "fcos", "rs"), make_batch((2, 1))
    with caplog.at_level(logging.INFO, logger="ranking_det"):
        draw_previews(model, [batch], 2, tmp_path)
        for inputs in batch:  # between two points, so without a positive
            inputs["instances"].gt_boxes.tensor[:] = torch.tensor([46.6, 46.6, 50.0, 50.0])
        draw_previews(model, [batch], 2, tmp_path)
        draw_previews(nn.Identity(), [batch], 2, tmp_path)
    with_all, without, _, unknown = (record.getMessage() for record in caplog.records)
    start = f"Wrote 2 images with 3 objects to {tmp_path}"
    assert re.fullmatch(rf"{start}: \d+ positives, 0 objects without one", with_all)
    assert f"{start}: 0 positives, 3 objects without one, because the assigner" in without
    assert unknown == start
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING", "WARNING", "INFO"]


def test_an_object_without_a_positive_is_red_and_others_are_not(tmp_path):
    model = build("fcos", "fcos", "rs")
    red_pixels = []
    for corner in (30.0, 46.6):  # an object around a point, and one between two points
        (inputs,) = make_batch((1,))
        inputs["image"].fill_(0)
        inputs["instances"].gt_boxes.tensor[0] = torch.tensor([corner, corner, 50.0, 50.0])
        draw_previews(model, [[inputs]], 1, tmp_path)
        pixels = imread(tmp_path / "preview_0001.png")[..., :3]
        red_pixels.append((np.abs(pixels - [1, 0.118, 0.118]) < 0.01).all(axis=2).sum())
    assert red_pixels[0] == 0 and red_pixels[1] > 100


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_previews_have_the_colors_of_the_image_file(image_format):
    red = torch.zeros(3, 4, 6, dtype=torch.float32)
    red[image_format.index("R")] = 300.0  # an augmentation may exceed 255
    assert (to_rgb(red, image_format) == [255, 0, 0]).all()


def test_a_model_that_does_not_report_positives_gets_boxes_only_and_one_warning(tmp_path, caplog):
    summary = draw_previews(nn.Identity(), [make_batch((2, 1))] * 2, 4, tmp_path)
    assert summary == (4, 6, None, None)
    assert sum("boxes only" in record.message for record in caplog.records) == 1


def test_an_unusable_folder_or_loader_is_an_error(tmp_path):
    model = build("fcos", "fcos", "rs")
    (tmp_path / "file").write_text("")
    without_instances = [{"file_name": "a.jpg", "image": torch.zeros(3, 8, 8)}]
    for batches, count, folder, message in [
        ([make_batch((1,))], 1, tmp_path / "file", "preview folder: expected a writable folder"),
        ([], 1, tmp_path, "--preview: expected images from the training loader, got none"),
        ([without_instances], 1, tmp_path, "--preview: expected 'instances' .* got none for a.jpg"),
    ]:
        with pytest.raises(UserError, match=message):
            draw_previews(model, batches, count, folder)
