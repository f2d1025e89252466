"""Detections of a trained model on the first images of a data set, for a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from torch import nn

from ranking_det.visualization.detections import DetectionExample, draw_examples


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
