"""Draw training images with their positives, and detections next to the ground truth."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from torch import Tensor, nn

from ranking_det.data.mapper import read_array
from ranking_det.modeling.interface import interface_of
from ranking_det.path_checks import check_output_dir
from ranking_det.user_errors import UserError, quantity
from ranking_det.visualization.detections import DetectionExample, class_name, draw_examples
from ranking_det.visualization.preview_image import DrawnPositives, draw_preview

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 6
"""Maximum number of images of :func:`draw_detections`."""


class PreviewSummary(NamedTuple):
    """Counts of the images, objects and positives that a preview has drawn.

    Attributes:
        images: number of images.
        objects: number of ground-truth objects in them.
        positives: number of positives; None if the model does not report its positives.
        without_positive: number of objects without a positive; None in the same case.
    """

    images: int
    objects: int
    positives: int | None
    without_positive: int | None


def draw_previews(
    model: nn.Module,
    batches: Iterable[list[dict[str, Any]]],
    num_images: int,
    output_dir: str | Path,
    class_names: Sequence[str] | None = None,
) -> PreviewSummary:
    """Draw training images as the model gets them, with their objects and positives.

    The images are written as ``preview_0001.png`` and so on. For a model that does not report its
    positives (see :class:`DetectorInterface`), only the boxes of the objects are drawn.

    Args:
        model: a detector. It is used in its current mode, which matters for assigners that use
            predictions, and is not changed.
        batches: the training loader.
        num_images: number of images, >= 1; fewer if the loader has fewer.
        output_dir: the folder for the images.
        class_names: names of the K classes; None to use their indices.

    Returns:
        The counts of images, objects and positives.

    Raises:
        UserError: the folder is not writable, or the loader gives no images or no ground truth.
    """
    check_output_dir(str(output_dir), "the preview folder")
    folder = Path(output_dir)
    detector, has_positives = interface_of(model), True
    counts: list[np.ndarray] = []
    for batch in _first(batches, num_images):
        batch_positives = detector.find_positives(batch)
        if batch_positives is None and has_positives:
            logger.warning(
                "%s does not report its positives: drawing boxes only", type(model).__name__
            )
            has_positives = False
        for inputs, positives in zip(batch, batch_positives or [None] * len(batch), strict=True):
            drawn, objects = None, np.empty(0, np.int64)
            if positives is not None:
                boxes, objects = positives.boxes.cpu().numpy(), positives.index.cpu().numpy()
                captions = positives.description, positives.task, positives.are_points
                drawn = DrawnPositives(boxes, objects, *captions)
            folder.mkdir(parents=True, exist_ok=True)
            picture = folder / f"preview_{len(counts) + 1:04d}.png"
            image = to_rgb(inputs["image"], detector.input_format)
            instances = inputs["instances"].to("cpu")
            boxes = instances.gt_boxes.tensor.numpy()
            labels = [class_name(class_names, index) for index in instances.gt_classes.tolist()]
            name = Path(inputs.get("file_name", "")).name
            draw_preview(picture, name, image, boxes, labels, drawn)
            counts.append(np.bincount(objects, minlength=len(instances)))
    if not counts:
        raise UserError("--preview: expected images from the training loader, got none")
    positives_of_objects = np.concatenate(counts)
    totals: tuple[int | None, int | None] = None, None
    if has_positives:
        totals = int(positives_of_objects.sum()), int((positives_of_objects == 0).sum())
    summary = PreviewSummary(len(counts), len(positives_of_objects), *totals)
    _log_summary(summary, folder)
    return summary


def _log_summary(summary: PreviewSummary, folder: Path) -> None:
    images = quantity(summary.images, "image", "images")
    text = f"Wrote {images} with {quantity(summary.objects, 'object', 'objects')} to {folder}"
    if summary.without_positive is not None:
        objects = quantity(summary.without_positive, "object", "objects")
        text += f": {quantity(summary.positives, 'positive', 'positives')}, {objects} without one"
    if summary.without_positive:
        text += ", because the assigner matches no anchor to them"
    logger.log(logging.WARNING if summary.without_positive else logging.INFO, "%s", text)


def draw_detections(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    dataset: str,
    picture: str | Path,
) -> None:
    """Draw ground truth (left) and detections (right) of the first images that have objects.

    In an image with n objects the n detections with the highest scores are drawn: a ranking loss
    determines the order of the scores, not a threshold. If no image has objects, nothing is
    written.

    Args:
        model: a detector in Detectron2's input and output formats.
        loader: a test loader with one image per batch.
        dataset: name of the loader's data set, which has the annotations.
        picture: path of the PNG file to write.
    """
    records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
    examples = []
    with inference_context(model), torch.no_grad():
        for inputs in loader:
            if "unreadable" in inputs[0]:
                continue
            record = records[inputs[0]["image_id"]]
            if record.get("annotations"):
                detections = model(inputs)[0]["instances"].to("cpu")
                examples.append(_example(record, detections))
            if len(examples) == NUM_EXAMPLES:
                break
    if examples:
        draw_examples(examples, MetadataCatalog.get(dataset).get("thing_classes"), picture)


def to_rgb(image: Tensor, image_format: str) -> np.ndarray:
    """Convert an input image of a model to an RGB array.

    Args:
        image: (3, H, W), values in [0, 255]; others are clipped.
        image_format: as in Detectron2, such as "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8.
    """
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    if image_format != "RGB":
        pixels = convert_image_to_rgb(pixels, image_format)
    return pixels.clip(0, 255).astype(np.uint8)


def _first(
    batches: Iterable[list[dict[str, Any]]], num_images: int
) -> Iterable[list[dict[str, Any]]]:
    """Yield the first batches; the last one is cut to give ``num_images`` in total."""
    for batch in batches:
        batch = batch[:num_images]
        for inputs in batch:
            if "instances" not in inputs:
                raise UserError(
                    f"--preview: expected 'instances' from the training loader, got none for "
                    f"{inputs.get('file_name')}"
                )
        num_images -= len(batch)
        yield batch
        if not num_images:
            return


def _example(record: dict[str, Any], detections: Instances) -> DetectionExample:
    """Return an image with its n objects and its n best detections."""
    image = read_array(record["file_name"], "RGB", (record["width"], record["height"]))
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    ground_truth = Instances(image.shape[:2])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    ground_truth.pred_boxes = np.array(boxes).reshape(-1, 4)
    ground_truth.pred_classes = np.array([a["category_id"] for a in objects], dtype=np.int64)
    if detections.has("pred_masks") and all("segmentation" in a for a in objects):
        ground_truth.pred_masks = [a["segmentation"] for a in objects]
    return DetectionExample(image, ground_truth, detections[: len(objects)])
