"""Pictures that a model makes: previews of its training, and detections on a few images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from torch import Tensor, nn

from ranking_det.engine.run_checks import check_output_dir
from ranking_det.modeling.interface import interface_of
from ranking_det.user_errors import UserError
from ranking_det.visualization.detections import DetectionExample, class_name, draw_examples
from ranking_det.visualization.preview_page import DrawnPositives, draw_preview

logger = logging.getLogger(__name__)


class PreviewSummary(NamedTuple):
    """What was drawn.

    Attributes:
        images: number of images.
        objects: number of their objects.
        positives: number of their positives; None if the model does not tell.
        without_positive: number of objects without a positive; None likewise.
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
    """Draw training images as the model gets them, with their objects and their positives.

    An image becomes ``preview_0001.png`` and so on. A model that does not tell its positives (see
    :class:`DetectorInterface`) gets boxes only.

    Args:
        model: a detector; it is used in the mode in which it is, which matters to assigners that
            look at predictions, and it is not changed.
        batches: the training loader.
        num_images: how many images, >= 1; fewer if the loader has fewer.
        output_dir: where the pictures go.
        class_names: of the K classes; None for their numbers.

    Returns:
        What was drawn.

    Raises:
        UserError: a folder that cannot be written, or a loader that gives no images or no
            objects.
    """
    check_output_dir(str(output_dir), "the folder of the preview")
    folder = Path(output_dir)
    detector, has_positives = interface_of(model), True
    counts: list[np.ndarray] = []
    for batch in _first(batches, num_images):
        batch_positives = detector.find_positives(batch)
        if batch_positives is None and has_positives:
            logger.warning("The positives of %s are not known: boxes only", type(model).__name__)
            has_positives = False
        for inputs, positives in zip(batch, batch_positives or [None] * len(batch), strict=True):
            drawn, objects = None, np.empty(0, np.int64)
            if positives is not None:
                boxes, objects = positives.boxes.cpu().numpy(), positives.index.cpu().numpy()
                words = positives.description, positives.task, positives.are_points
                drawn = DrawnPositives(boxes, objects, *words)
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
        raise UserError("--preview: the training loader gives no image")
    numbers = np.concatenate(counts)
    totals = (int(numbers.sum()), int((numbers == 0).sum())) if has_positives else (None, None)
    logger.info("%d images are drawn in %s", len(counts), folder)
    return PreviewSummary(len(counts), len(numbers), *totals)


def draw_detections(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    dataset: str,
    picture: str | Path,
    num_images: int = 6,
) -> None:
    """Draw the first images that have objects: ground truth on the left, detections on the right.

    As many detections are drawn as there are objects, those of highest score: a ranking loss fixes
    the order of scores, not a threshold. Without such an image there is no picture.

    Args:
        model: a detector in Detectron2's input and output formats.
        loader: a test loader of one image per batch.
        dataset: the name of its data set, which has the annotations.
        picture: the PNG to write.
        num_images: how many images.
    """
    records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
    examples = []
    with inference_context(model), torch.no_grad():
        for inputs in loader:
            record = records[inputs[0]["image_id"]]
            if record.get("annotations"):
                detections = model(inputs)[0]["instances"].to("cpu")
                examples.append(_example(record, detections))
            if len(examples) == num_images:
                break
    if examples:
        draw_examples(examples, MetadataCatalog.get(dataset).get("thing_classes"), picture)


def to_rgb(image: Tensor, image_format: str) -> np.ndarray:
    """A model's input (3, H, W) -> (H, W, 3) uint8 RGB."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    if image_format != "RGB":
        pixels = convert_image_to_rgb(pixels, image_format)
    return pixels.clip(0, 255).astype(np.uint8)


def _first(
    batches: Iterable[list[dict[str, Any]]], num_images: int
) -> Iterable[list[dict[str, Any]]]:
    """The first batches, the last of them cut to give so many images in all."""
    for batch in batches:
        batch = batch[:num_images]
        for inputs in batch:
            if "instances" not in inputs:
                raise UserError(f"{inputs.get('file_name')}: the loader gives no instances of it")
        num_images -= len(batch)
        yield batch
        if not num_images:
            return


def _example(record: dict[str, Any], detections: Instances) -> DetectionExample:
    """The image with its objects, and as many detections."""
    image = read_image(record["file_name"], format="RGB")
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    ground_truth = Instances(image.shape[:2])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    ground_truth.pred_boxes = np.array(boxes).reshape(-1, 4)
    ground_truth.pred_classes = np.array([a["category_id"] for a in objects], dtype=np.int64)
    if detections.has("pred_masks") and all("segmentation" in a for a in objects):
        ground_truth.pred_masks = [a["segmentation"] for a in objects]
    return DetectionExample(image, ground_truth, detections[: len(objects)])
