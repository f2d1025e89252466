"""Predict on custom images: draw the detections and write them in COCO format."""

from __future__ import annotations

import glob
import io
import itertools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import inference_context
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from ranking_det.data.images import UnreadableImageError, has_image_extension, is_image, read_header
from ranking_det.data.mapper import ImageMapper, read_array
from ranking_det.engine.failures import output_failure
from ranking_det.engine.stopping import Stopped
from ranking_det.evaluation.fitted_scores import FittedScores
from ranking_det.files import reserve_space, write_json, write_whole
from ranking_det.path_checks import check_no_folder, check_output_dir
from ranking_det.user_errors import RunError, UserError, listed, quantity
from ranking_det.visualization.detections import overlay

logger = logging.getLogger(__name__)


def predict_images(
    model: nn.Module,
    images: Sequence[str],
    output_dir: str | Path,
    *,
    class_names: Sequence[str] | None,
    category_ids: Sequence[int],
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    max_drawn: int = 10,
    fitted: FittedScores | None = None,
) -> Path:
    """Detect objects in images, draw the best detections, and write all detections to one file.

    A ranking loss determines the order of the scores, not their scale. Therefore no score threshold
    selects the detections to draw: the ``max_drawn`` best of each image are drawn. With ``fitted``,
    all detections that pass the threshold of their class are drawn instead, and all scores are
    calibrated. The file has all detections. The images are processed one at a time.

    Args:
        model: a detector in Detectron2's input and output formats, on its device.
        images: files, folders (their images, sorted) or patterns such as ``photos/*.jpg``; see
            :func:`list_images`.
        output_dir: folder for a ``STEM.jpg`` per image and ``predictions.json`` with ``images``,
            ``categories`` and ``annotations``. Annotations have a ``score``; their boxes are in
            pixels of the image after its EXIF rotation. It must not contain an input image.
        class_names: names of the K classes; None to use their indices.
        category_ids: the K category ids for ``predictions.json``.
        mapper: the mapper of the test loader, such as Detectron2's
            ``DatasetMapper(is_train=False)``.
        max_drawn: maximum number of detections drawn per image, without ``fitted``.
        fitted: calibrators and thresholds for classes of the names ``class_names``. Then
            ``predictions.json`` says in ``info`` that the scores are calibrated, and each of its
            categories has the ``threshold`` of calibrated scores, null for none.

    Returns:
        The path of ``predictions.json``.

    Raises:
        UserError: before any prediction, if an image does not exist, no file is an image, or the
            folder is not writable; after all predictions, if some files were not readable images.
            The results of the other images are then written.
        RunError: a file cannot be written; the results so far stay.
        Stopped: a signal has stopped the command; the results so far stay.
    """
    paths = list_images(images)
    _check_output(paths, Path(output_dir))
    check_no_folder(str(output_dir), ["predictions.json", *unique_names(paths)], "--output")
    _check_any(paths)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = class_names or [str(index) for index in range(len(category_ids))]
    content = _content(category_ids, names, fitted)
    unreadable, space = [], len(json.dumps(content))
    mapper = mapper if isinstance(mapper, ImageMapper) else ImageMapper(mapper)
    predictions = folder / "predictions.json"

    def progress() -> str:
        return f"the results of {len(content['images'])} of {len(paths)} images are in {folder}"

    try:
        with inference_context(model), torch.no_grad():
            for i, (path, name) in enumerate(zip(paths, unique_names(paths), strict=True), start=1):
                try:
                    pixels = read_array(path, "RGB")
                except (UnreadableImageError, OSError) as error:
                    unreadable.append(f"{path} ({_reason(error)})")
                    logger.warning("%d/%d Cannot read %s", i, len(paths), unreadable[-1])
                    continue
                height, width = pixels.shape[:2]
                size = {"width": width, "height": height}
                inputs = mapper({"file_name": path, "image_id": i, **size})
                detections = _detect(model, inputs)
                detections, drawn = _choose(detections, names, max_drawn, fitted)
                image = {"id": i, "file_name": path, **size, "drawn": name}
                rows = _annotations(detections, i, category_ids, len(content["annotations"]) + 1)
                # On a full disk this fails, while the file of the earlier images still has space.
                space += len(json.dumps([image, rows]))
                reserve_space(predictions, space + 100)
                _save(overlay(pixels, drawn, class_names), folder / name)
                content["images"].append(image)
                content["annotations"] += rows
                which = "the best %d" if fitted is None else "the %d above their thresholds"
                text = f"%d/%d %s: %s, {which} drawn -> %s"
                count = quantity(len(detections), "detection", "detections")
                logger.info(text, i, len(paths), path, count, len(drawn), name)
    except Stopped as stopped:
        raise Stopped(stopped.number, f"; {progress()}") from stopped
    except OSError as error:
        advice = f"start the command again; {progress()}"
        failure = output_failure(error, str(folder), advice)
        if not failure:
            raise
        raise RunError(failure) from error
    finally:  # also after an interruption, for the results so far
        if folder.is_dir():
            write_json(predictions, content)
    if unreadable:
        count = len(content["images"])
        others = f"the other {count} images" if count > 1 else "the other image"
        results = f"the results of {others}" if count else "no detections"
        raise UserError(f"--predict: cannot read {listed(unreadable)}; wrote {results} to {folder}")
    return predictions


def list_images(images: Sequence[str]) -> list[str]:
    """Resolve files, folders and patterns to image files, without duplicates, in the given order.

    In folders and patterns, images are recognized by their content, not their extension. Files
    that have the extension of an image but not the content are kept, so that they are reported. The
    log names all other files as skipped.

    Args:
        images: files, folders (their images, sorted) or patterns such as ``photos/*.jpg``.

    Raises:
        UserError: a file does not exist, or a folder or pattern has no image.
    """
    files: dict[str, str] = {}
    skipped: list[str] = []
    for item in images:
        if os.path.isdir(item):
            entries = [os.path.join(item, name) for name in os.listdir(item)]
            paths, fault = _only_images(entries, skipped), "has no image"
        elif os.path.exists(item) or not glob.has_magic(item):
            # Reading a pipe could wait forever, and a device may be endless.
            paths = [item] * os.path.isfile(item)
            fault = "is not a file" if os.path.exists(item) else "does not exist"
        else:
            entries = glob.glob(item, recursive=True)
            paths, fault = _only_images(entries, skipped), "matches no image"
        if not paths:
            raise UserError(f"--predict: {item!r} {fault} (current folder: {Path.cwd()})")
        for path in paths:
            files.setdefault(os.path.realpath(path), path)
    if not files:
        raise UserError("--predict: expected image files, folders or patterns, got none")
    if skipped:
        files_text = quantity(
            len(skipped), "file that is not an image", "files that are not images"
        )
        logger.info("Skipped %s: %s", files_text, listed(skipped))
    return list(files.values())


MAX_NAME = 255
"""Maximum length of a file name in bytes, on common file systems."""


def unique_names(paths: Sequence[str]) -> list[str]:
    """Name a JPEG file for each path by its stem, with ``_2``, ``_3`` and so on for duplicates.

    Names that would be too long for the file system are shortened.

    Args:
        paths: the paths of the images.

    >>> unique_names(["a/x.png", "b/x.jpg", "b/y.jpg"])
    ['x.jpg', 'x_2.jpg', 'y.jpg']
    """
    used: set[str] = set()
    next_number: Counter[str] = Counter()
    names = []
    for path in paths:
        stem = Path(path).stem
        name = _shortened(stem, ".jpg")
        while name.lower() in used:  # some file systems ignore case
            next_number[stem.lower()] = max(2, next_number[stem.lower()] + 1)
            name = _shortened(stem, f"_{next_number[stem.lower()]}.jpg")
        used.add(name.lower())
        names.append(name)
    return names


def _shortened(stem: str, ending: str) -> str:
    """Return a file name; cut whole characters off a stem that is too long."""
    while len(os.fsencode(stem + ending)) > MAX_NAME:
        stem = stem[:-1]
    return stem + ending


def _only_images(paths: Iterable[str], skipped: list[str]) -> list[str]:
    """Return the images among files, sorted; add the other files to ``skipped``."""
    images = []
    for path in sorted(itertools.filterfalse(os.path.isdir, paths)):
        hidden = os.path.basename(path).startswith(".")
        # A broken link or a pipe is not a file.
        is_file = os.path.isfile(path) and not hidden
        if is_file and (has_image_extension(path) or is_image(path)):
            images.append(path)
        else:
            skipped.append(path)
    return images


def _check_output(paths: Sequence[str], folder: Path) -> None:
    check_output_dir(str(folder), "--output")
    for path in paths:
        if folder.resolve() in (Path(path).parent.resolve(), Path(path).resolve().parent):
            raise UserError(
                f"--output: expected a folder without input images, got {str(folder)!r}, which has "
                f"{path!r} (a drawn image could overwrite it)"
            )


def _check_any(paths: Sequence[str]) -> None:
    """Raise UserError if no file has the header of an image."""
    faults = []
    for path in paths:
        try:
            read_header(path)
            return
        except (UnreadableImageError, OSError) as error:
            faults.append(f"{path} ({_reason(error)})")
    raise UserError(f"--predict: expected readable images, got {listed(faults)}")


def _detect(model: nn.Module, inputs: dict[str, Any]) -> Instances:
    """Return the detections of an image on the CPU, sorted by descending score."""
    detections = model([inputs])[0]["instances"].to("cpu")
    return detections[detections.scores.argsort(descending=True, stable=True)]


def _content(
    category_ids: Sequence[int], names: Sequence[str], fitted: FittedScores | None
) -> dict[str, Any]:
    """Return the content of predictions.json without any image."""
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, names, strict=True)]
    content: dict[str, Any] = {"images": [], "categories": categories, "annotations": []}
    if fitted is not None:
        content["info"] = {"scores": "calibrated", "target": fitted.target}
        for category, value in zip(categories, fitted.calibrated_thresholds(names), strict=True):
            category["threshold"] = value if math.isfinite(value) else None
    return content


def _choose(
    detections: Instances, names: Sequence[str], max_drawn: int, fitted: FittedScores | None
) -> tuple[Instances, Instances]:
    """Return all detections, with calibrated scores if they are fitted, and those to draw."""
    if fitted is None:
        return detections, detections[:max_drawn]
    classes = [names[index] for index in detections.pred_classes.tolist()]
    scores = fitted.calibrate(classes, detections.scores.tolist())
    passing = scores >= np.array(fitted.calibrated_thresholds(classes))
    detections.scores = torch.from_numpy(scores)  # float64: float32 would make scores equal
    order = np.argsort(-scores, kind="stable")
    return detections[order], detections[order[passing[order]]]


def _save(picture: np.ndarray, path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=90)
    write_whole(path, content.getvalue())


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
    return " ".join((getattr(error, "strerror", None) or str(error) or "broken").split())
