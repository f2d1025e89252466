"""Pictures of detections beside the ground truth."""

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
from detectron2.utils.visualizer import Visualizer
from matplotlib.figure import Figure
from torch import nn


def draw_detections(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    dataset: str,
    picture: str | Path,
    num_images: int = 6,
) -> None:
    """Draw the first images that have objects: ground truth on the left, detections on the right.

    As many detections are drawn as there are objects, those of highest score: a ranking loss fixes
    the order of scores, not a threshold.

    Args:
        model: a detector in Detectron2's input and output formats.
        loader: a test loader of one image per batch.
        dataset: the name of its data set, which has the annotations.
        picture: the PNG to write.
        num_images: how many images.
    """
    classes = MetadataCatalog.get(dataset).get("thing_classes")
    records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
    rows = []
    with inference_context(model), torch.no_grad():
        for inputs in loader:
            record = records[inputs[0]["image_id"]]
            if record["annotations"]:
                found = model(inputs)[0]["instances"].to("cpu")
                rows.append(_draw_pair(record, found, classes))
            if len(rows) == num_images:
                break
    if not rows:
        return
    figure = Figure(figsize=(12, 3.1 * -(-len(rows) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(rows) // 2), 4, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, pair in enumerate(rows):
        for j, (image, title) in enumerate(zip(pair, ("ground truth", "detections"), strict=True)):
            axis = axes[i // 2, 2 * (i % 2) + j]
            axis.imshow(image)
            axis.set_title(title, fontsize=9)
    figure.savefig(picture, dpi=110)


def _draw_pair(
    record: dict[str, Any], found: Instances, classes: list[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(record["file_name"], format="RGB")
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    object_boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    object_classes = [a["category_id"] for a in objects]
    found = found[: len(objects)]
    found_classes = found.pred_classes.tolist()
    names = classes or [str(i) for i in range(max([0, *object_classes, *found_classes]) + 1)]
    scores = [f"{names[c]} {s:.2f}" for c, s in zip(found_classes, found.scores, strict=True)]
    return (
        _overlay(image, object_boxes, [names[c] for c in object_classes]),
        _overlay(image, found.pred_boxes.tensor.tolist(), scores),
    )


def _overlay(image: np.ndarray, boxes: list[list[float]], labels: list[str]) -> np.ndarray:
    # Twice as large: the visualizer's letters have a smallest size, too large for small images.
    canvas = Visualizer(image, scale=max(1, 512 // max(image.shape[:2])))
    white = [(1.0, 1.0, 1.0)] * len(boxes)  # its random colours are lost on colourful images
    return canvas.overlay_instances(
        boxes=np.array(boxes).reshape(-1, 4), labels=labels, assigned_colors=white, alpha=1.0
    ).get_image()
