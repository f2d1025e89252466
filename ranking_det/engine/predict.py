"""Detections in images of one's own: pictures, and one file in COCO's format."""

from __future__ import annotations

import glob
import logging
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_context
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image, ImageOps
from PIL.Image import DecompressionBombError
from torch import nn

from ranking_det.engine.run_checks import check_output_dir
from ranking_det.files import write_json
from ranking_det.user_errors import UserError
from ranking_det.visualization.detections import overlay

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of the files that are taken from folders and patterns."""

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, DecompressionBombError)
"""What Pillow raises for files that are no images, or broken ones."""


def predict_images(
    model: nn.Module,
    images: Sequence[str],
    output_dir: str | Path,
    *,
    class_names: Sequence[str] | None,
    category_ids: Sequence[int],
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    max_drawn: int = 10,
) -> Path:
    """Detect in images, one at a time; draw them, and write all detections to one file.

    A ranking loss fixes the order of scores and not their scale, so that no threshold could say
    what to draw: of each image the ``max_drawn`` best detections are. The file has all of them.

    Args:
        model: a detector in Detectron2's input and output formats, on its device.
        images: files, folders (their images, sorted) or patterns such as ``photos/*.jpg``.
        output_dir: gets a drawn ``STEM.jpg`` per image, and ``predictions.json`` with ``images``,
            ``categories`` and ``annotations`` (with ``score``; boxes in pixels of the image as it
            is seen, that is after its EXIF rotation). May be no folder of an input image.
        class_names: of the K classes; None for their numbers.
        category_ids: the K ids that ``predictions.json`` calls them by.
        mapper: of the test loader, such as Detectron2's ``DatasetMapper(is_train=False)``.
        max_drawn: detections drawn per image, at most.

    Returns:
        The path of ``predictions.json``.

    Raises:
        UserError: no such image, a file that is none, or a folder that cannot be written; before
            anything is predicted. Or images that turned out to be broken when they were read; then
            after those that are not have been predicted and written.
    """
    paths = find_images(images)
    _check_output(paths, Path(output_dir))
    _check_headers(paths)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = class_names or [str(index) for index in range(len(category_ids))]
    categories = [{"id": a, "name": b} for a, b in zip(category_ids, names, strict=True)]
    content: dict[str, list[Any]] = {"images": [], "categories": categories, "annotations": []}
    broken = []
    try:
        with inference_context(model), torch.no_grad(), tempfile.TemporaryDirectory() as spare:
            for i, (path, name) in enumerate(zip(paths, unique_names(paths), strict=True), start=1):
                try:
                    readable, picture = _read(path, spare)
                except UNREADABLE as error:
                    broken.append(f"{path} ({_reason(error)})")
                    logger.warning("%d/%d cannot be read: %s", i, len(paths), broken[-1])
                    continue
                height, width = picture.shape[:2]
                size = {"width": width, "height": height}
                inputs = mapper({"file_name": readable, "image_id": i, **size})
                detections = _detect(model, inputs)
                _save(overlay(picture, detections[:max_drawn], class_names), folder / name)
                content["images"].append({"id": i, "file_name": path, **size, "drawn": name})
                rows = _annotations(detections, i, category_ids, len(content["annotations"]) + 1)
                content["annotations"] += rows
                count = len(detections)
                logger.info("%d/%d %s: %d detections -> %s", i, len(paths), path, count, name)
    finally:  # an interruption keeps what is done
        written = folder / "predictions.json"
        write_json(written, content)
    if broken:
        count = len(content["images"])
        done = f"the other {count} are in {folder}" if count else "there are no others"
        raise UserError(f"cannot read {_some(broken)}; {done}")
    return written


def find_images(images: Sequence[str]) -> list[str]:
    """Resolve files, folders and patterns to files, each once, in the order given.

    Raises:
        UserError: one of them stands for no image.
    """
    files: dict[str, str] = {}
    kinds = f"image ({', '.join(SUFFIXES)})"
    for item in images:
        if os.path.isdir(item):
            entries = (os.path.join(item, name) for name in os.listdir(item))
            paths, fault = _only_images(entries), f"has no {kinds}"
        elif os.path.exists(item) or not glob.has_magic(item):
            paths, fault = [item] * os.path.exists(item), "does not exist"
        else:
            paths, fault = _only_images(glob.glob(item, recursive=True)), f"matches no {kinds}"
        if not paths:
            raise UserError(f"{item!r} {fault} (current folder: {Path.cwd()})")
        for path in paths:
            files.setdefault(os.path.realpath(path), path)
    if not files:
        raise UserError("there is no image to predict: give files, folders or patterns")
    return list(files.values())


def unique_names(paths: Sequence[str]) -> list[str]:
    """A JPEG's name for each path, by its stem; ``_2``, ``_3`` and so on where one is taken.

    >>> unique_names(["a/x.png", "b/x.jpg", "b/y.jpg"])
    ['x.jpg', 'x_2.jpg', 'y.jpg']
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = name = Path(path).stem
        count = 1
        while name.lower() in taken:  # some file systems do not know a from A
            count += 1
            name = f"{stem}_{count}"
        taken.add(name.lower())
        names.append(f"{name}.jpg")
    return names


def _only_images(paths: Iterable[str]) -> list[str]:
    images = (path for path in paths if path.lower().endswith(SUFFIXES) and os.path.isfile(path))
    return sorted(path for path in images if not os.path.basename(path).startswith("."))


def _check_output(paths: Sequence[str], folder: Path) -> None:
    check_output_dir(str(folder), "--output")
    for path in paths:
        if folder.resolve() in (Path(path).parent.resolve(), Path(path).resolve().parent):
            raise UserError(
                f"--output={folder} is the folder of the image {path!r}, which a drawn one could "
                "overwrite; give another folder"
            )


def _check_headers(paths: Sequence[str]) -> None:
    """Raise UserError for files that are no images; it reads only how they begin."""
    faults = []
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.mode == "F":
                    faults.append(f"{path} (of floating-point pixels; save it with 8 or 16 bits)")
        except UNREADABLE as error:
            faults.append(f"{path} ({_reason(error)})")
    if faults:
        raise UserError(f"no image that can be read: {_some(faults)}")


def _read(path: str, folder: str) -> tuple[str, np.ndarray]:
    """The file to give to the mapper, and its pixels (H, W, 3), uint8 RGB.

    Pillow makes nearly all of a grey 16-bit image white: the mapper gets an 8-bit copy of it.
    """
    with Image.open(path) as image:
        if image.mode.startswith("I"):
            wide = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
            path = os.path.join(folder, "image.png")
            Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).save(path)
    return path, read_image(path, format="RGB")


def _detect(model: nn.Module, inputs: dict[str, Any]) -> Instances:
    """The detections of an image on the CPU, by descending score, in its own pixels."""
    detections = model([inputs])[0]["instances"].to("cpu")
    return detections[detections.scores.argsort(descending=True, stable=True)]


def _save(picture: np.ndarray, path: Path) -> None:
    try:
        Image.fromarray(picture).save(path, quality=90)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({_reason(error)})") from error


def _annotations(
    detections: Instances, image_id: int, category_ids: Sequence[int], first: int
) -> list[dict[str, Any]]:
    rows = instances_to_coco_json(detections, image_id)
    areas = [row["bbox"][2] * row["bbox"][3] for row in rows]
    if detections.has("pred_masks"):
        areas = detections.pred_masks.flatten(1).sum(dim=1).tolist()
    for number, (row, area) in enumerate(zip(rows, areas, strict=True), start=first):
        category_id = category_ids[row["category_id"]]
        row |= {"id": number, "category_id": category_id, "area": area, "iscrowd": 0}
    return rows


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or of an unknown format"
    return " ".join((getattr(error, "strerror", None) or str(error) or "broken").split())


def _some(items: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
