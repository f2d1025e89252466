"""Prediction on the user's images: COCO results, drawn images, and errors."""

import errno
import json
import logging
import os
import re
import signal

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image, features
from pycocotools.coco import COCO
from torch import nn

from ranking_det.engine import predict as predict_module
from ranking_det.engine.predict import list_images, predict_images, unique_names
from ranking_det.engine.stopping import Stopped, stop
from ranking_det.user_errors import RunError, UserError


class WhiteRectangleDetector(nn.Module):
    """A model that detects the white rectangle in a black image, and a wrong box."""

    def __init__(self, masks=False):
        super().__init__()
        self.masks = masks

    def forward(self, batched_inputs):
        assert not self.training and not torch.is_grad_enabled()
        (inputs,) = batched_inputs
        white = inputs["image"].float().mean(dim=0) > 127
        y, x = white.nonzero().unbind(dim=1)
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
        detections = Instances(white.shape)
        boxes = torch.stack([box - box, box]).float() + torch.tensor([0, 0, 1, 0])
        boxes[1, 2] -= 1
        boxes[0, 3] += 1
        detections.pred_boxes = Boxes(boxes)
        detections.scores = torch.tensor([0.25, 0.75])
        detections.pred_classes = torch.tensor([0, 1])
        detections = detector_postprocess(detections, inputs["height"], inputs["width"])
        if self.masks:
            size = detections.image_size
            detections.pred_masks = torch.zeros(len(detections), *size, dtype=torch.bool)
            detections.pred_masks[1, :10, :20] = True
        return [{"instances": detections}]


def rectangle_image(width=80, height=40, box=(20, 10, 60, 30)):
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


def run(images, output, model=None, **options):
    mapper = DatasetMapper(
        is_train=False,
        augmentations=[T.ResizeShortestEdge(short_edge_length=20, max_size=500)],
        image_format="BGR",
    )
    options = {"class_names": ["noise", "white"], "category_ids": [7, 3], **options}
    return predict_images(
        model or WhiteRectangleDetector(), images, output, mapper=mapper, **options
    )


def test_detections_are_coco_annotations_in_pixels_of_the_original_image(tmp_path):
    rectangle_image().save(tmp_path / "a.png")
    path = run([str(tmp_path / "a.png")], tmp_path / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.jpg", "predictions.json"]
    coco = COCO(str(path))
    names = [(category["id"], category["name"]) for category in coco.dataset["categories"]]
    assert names == [(7, "noise"), (3, "white")]
    (image,) = coco.dataset["images"]
    assert (image["file_name"], image["width"], image["height"]) == (f"{tmp_path}/a.png", 80, 40)
    best, noise = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    assert best["category_id"] == 3 and best["score"] == 0.75 and best["iscrowd"] == 0
    np.testing.assert_allclose(best["bbox"], [20, 10, 40, 20], atol=2)  # 1 px of the resized image
    assert best["area"] == best["bbox"][2] * best["bbox"][3] and "segmentation" not in best
    assert noise["category_id"] == 7 and noise["id"] != best["id"]


def test_the_log_counts_the_detections_and_those_that_are_drawn(tmp_path, caplog):
    rectangle_image().save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO, logger="ranking_det"):
        run([str(tmp_path / "a.png")], tmp_path / "out", max_drawn=1)
        run([str(tmp_path / "a.png")], tmp_path / "out")
    start = f"1/1 {tmp_path}/a.png: 2 detections, the best"
    assert caplog.messages == [f"{start} {n} drawn -> a.jpg" for n in (1, 2)]


def test_masks_are_written_with_the_area_of_the_mask(tmp_path):
    rectangle_image().save(tmp_path / "a.png")
    coco = COCO(
        str(run([str(tmp_path / "a.png")], tmp_path / "out", WhiteRectangleDetector(masks=True)))
    )
    noise = coco.loadAnns(coco.getAnnIds(catIds=[7]))[0]
    best = coco.loadAnns(coco.getAnnIds(catIds=[3]))[0]
    assert (noise["area"], best["area"]) in [(0, 200), (200, 0)]
    assert coco.annToMask(best).sum() == best["area"]


@pytest.mark.parametrize("kind", ["L", "LA", "RGBA", "P", "CMYK", "1", "16 bit", "rotated"])
def test_images_of_every_pixel_format_and_orientation_are_read(tmp_path, kind):
    image, path = (
        rectangle_image(),
        tmp_path / ("a.jpg" if kind in ("CMYK", "rotated") else "a.png"),
    )
    if kind == "16 bit":
        # Not white and black, so that clipping to 8 bits, as Pillow does, would give all white.
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200 + 2000)
    elif kind != "rotated":
        image = image.convert("RGBA").convert(kind)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    image.save(path, **({"exif": exif} if kind == "rotated" else {}))
    content = json.loads(run([str(path)], tmp_path / "out").read_text())
    width, height, expected = (80, 40, [20, 10, 40, 20])
    if kind == "rotated":
        width, height, expected = (40, 80, [10, 20, 20, 40])
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (width, height)
    np.testing.assert_allclose(content["annotations"][0]["bbox"], expected, atol=2.1)
    with Image.open(tmp_path / "out" / "a.jpg") as drawn:
        assert (drawn.width > drawn.height) == (width > height)


def test_folders_and_patterns_give_their_images_without_duplicates(tmp_path, caplog):
    for name in ("b.JPG", "a.png", ".hidden.png"):
        rectangle_image().save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "c.jpg").symlink_to("missing.jpg")
    expected = [str(tmp_path / "a.png"), str(tmp_path / "b.JPG")]
    with caplog.at_level(logging.INFO):
        assert list_images([str(tmp_path)]) == expected
    skipped = r"Skipped 3 files that are not images: .*hidden\.png, .*c\.jpg, .*notes"
    assert re.search(skipped, caplog.text)
    assert list_images([str(tmp_path / "*"), expected[0]]) == expected
    assert list_images([expected[1], str(tmp_path)]) == expected[::-1]


def test_images_in_folders_are_found_by_their_content_and_not_by_their_extension(tmp_path):
    for name, format in [("a.jfif", "JPEG"), ("b", "PNG"), ("c.data", "TIFF"), ("d.tga", "TGA")]:
        rectangle_image().save(tmp_path / name, format=format)
    if features.check("avif"):
        rectangle_image().save(tmp_path / "e.avif")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    expected = sorted({str(path) for path in tmp_path.iterdir()} - {str(tmp_path / "drawing.eps")})
    assert list_images([str(tmp_path)]) == expected
    content = json.loads(run([str(tmp_path)], tmp_path / "out").read_text())
    assert [image["file_name"] for image in content["images"]] == expected


def test_names_that_are_too_long_are_shortened_and_stay_unique(tmp_path):
    for stem in ("a" * 251, "é" * 125, "\udcff" * 250):
        names = unique_names([f"x/{stem}.png", f"x/{stem}.jpg", f"x/{stem[:-1]}.jpg"] * 6)
        assert len(set(names)) == 18 and all(len(os.fsencode(name)) <= 255 for name in names)
        for name in names:
            (tmp_path / name).touch()


def test_images_with_the_same_stem_get_different_names():
    paths = ["a/x.png", "b/X.jpg", "c/x_2.png", "c/x.jpg"]
    assert unique_names(paths) == ["x.jpg", "X_2.jpg", "x_2_2.jpg", "x_3.jpg"]


def test_truncated_images_are_named_and_the_other_images_are_predicted(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    rectangle_image().save(tmp_path / "c.png")
    for name in ("a.jpg", "b.jpg"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    message = r"--predict: cannot read .*a\.jpg \(.*b\.jpg .*the results of the other image"
    with pytest.raises(UserError, match=message) as error:
        run([str(tmp_path)], tmp_path / "out")
    assert "\n" not in str(error.value)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [str(tmp_path / "c.png")]
    assert len(content["annotations"]) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!doctype html><html></html>", "a web page, not an image"),
        (b"no image", "not an image, or an unknown format"),
    ],
)
def test_files_that_are_not_images_are_named_and_the_other_files_are_predicted(
    tmp_path, content, reason
):
    rectangle_image().save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(content)
    message = rf"cannot read .*b\.jpg \({reason}\); wrote the results of the other image"
    with pytest.raises(UserError, match=message):
        run([str(tmp_path)], tmp_path / "out")
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in written["images"]] == [str(tmp_path / "a.png")]


class InterruptedDetector(WhiteRectangleDetector):
    """A detector that raises an error at the third image."""

    def __init__(self, error):
        super().__init__()
        self.images_left, self.error = 2, error

    def forward(self, batch):
        self.images_left -= 1
        if self.images_left < 0:
            raise self.error
        return super().forward(batch)


@pytest.mark.parametrize("error", [Stopped(signal.SIGTERM), ZeroDivisionError("a bug")])
def test_a_signal_or_an_error_keeps_the_results_of_earlier_images(error, tmp_path):
    (tmp_path / "images").mkdir()
    for name in "abcd":
        rectangle_image().save(tmp_path / "images" / f"{name}.png")
    with pytest.raises(type(error)) as caught:
        run([str(tmp_path / "images")], tmp_path / "out", InterruptedDetector(error))
    if isinstance(error, Stopped):
        expected = f"stopped by SIGTERM; the results of 2 of 4 images are in {tmp_path}/out"
        assert str(caught.value) == expected
    assert_has_images(tmp_path / "out", ["a.jpg", "b.jpg"])


def assert_has_images(folder, names):
    content = json.loads((folder / "predictions.json").read_text())
    assert [image["drawn"] for image in content["images"]] == names
    assert sorted(path.name for path in folder.iterdir()) == [*names, "predictions.json"]
    for name in names:
        with Image.open(folder / name) as drawn:
            drawn.load()


@pytest.mark.parametrize("function_name", ["reserve_space", "write_whole"])
def test_a_full_disk_keeps_the_results_of_earlier_images(function_name, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for name in "abcd":
        rectangle_image().save(tmp_path / "images" / f"{name}.png")
    calls, function = [], getattr(predict_module, function_name)

    def fail_at_third(path, content):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        function(path, content)

    monkeypatch.setattr(predict_module, function_name, fail_at_third)
    message = r"cannot write \(No space left on device\); free some space and start .* again; the "
    with pytest.raises(RunError, match=f"{message}results of 2 of 4 images are in "):
        run([str(tmp_path / "images")], tmp_path / "out")
    assert_has_images(tmp_path / "out", ["a.jpg", "b.jpg"])


def test_a_signal_while_a_drawing_is_written_keeps_the_earlier_drawing(tmp_path, monkeypatch):
    rectangle_image().save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").write_bytes(b"of an earlier command")
    monkeypatch.setattr("ranking_det.files.rename_whole", lambda *_: stop(signal.SIGTERM))
    with pytest.raises(Stopped):
        run([str(tmp_path / "a.png")], tmp_path / "out")
    assert contents_of(tmp_path / "out") == {"a.jpg": b"of an earlier command"}


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_image_of_one_row_is_predicted(tmp_path):
    rectangle_image(3000, 1, (20, 0, 60, 1)).save(tmp_path / "a.png")
    (image,) = json.loads(run([str(tmp_path)], tmp_path / "out").read_text())["images"]
    assert (image["width"], image["height"]) == (3000, 1)


def test_wrong_images_and_folders_are_errors_before_anything_is_written(tmp_path):
    folder, empty, output = tmp_path / "images", tmp_path / "empty", tmp_path / "out"
    folder.mkdir(), empty.mkdir()
    rectangle_image().save(folder / "a.png")
    (folder / "b.png").write_text("no image")
    (tmp_path / "file").write_text("")
    readable = str(folder / "a.png")
    for images, output_dir, message in [
        ([], output, "--predict: expected image files, folders or patterns, got none"),
        ([readable, "none.jpg"], output, "'none.jpg' does not exist"),
        ([str(tmp_path / "*.gif")], output, "gif' matches no image"),
        ([str(empty)], output, "empty' has no image"),
        ([str(folder / "b.png")], output, r"b\.png \(not an image"),
        ([readable], tmp_path / "file", "--output: expected a writable folder, got"),
        ([readable], tmp_path / "file" / "under", "--output: expected a writable folder, got"),
        ([readable], folder, "--output: expected a folder without input images, got"),
    ]:
        with pytest.raises(UserError, match=message):
            run(images, output_dir)
    assert not output.exists() and len(list(folder.iterdir())) == 2


def test_an_image_behind_a_symbolic_link_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    rectangle_image().save(tmp_path / "out" / "a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "out" / "a.jpg")
    with pytest.raises(UserError, match="--output: expected a folder without input images, got"):
        run([str(tmp_path / "link.jpg")], tmp_path / "out")


def test_only_the_best_detections_are_drawn(tmp_path, monkeypatch):
    scores = []
    monkeypatch.setattr(
        predict_module,
        "overlay",
        lambda image, detections, classes: scores.extend(detections.scores.tolist()) or image,
    )
    rectangle_image().save(tmp_path / "a.png")
    content = json.loads(run([str(tmp_path / "a.png")], tmp_path / "out", max_drawn=1).read_text())
    assert scores == [0.75] and len(content["annotations"]) == 2
