"""Pictures of detections, alone and beside the ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import nn

# Told from each other, from photographs, and from the red that warns.
PLAIN = {"text.parse_math": False}
"""Names of files and classes are no formulas, whatever dollar signs they have."""

COLORS = (
    *("#ffe119", "#00d5ff", "#7fff00", "#ff6fe0", "#ff9500"),
    *("#5b8cff", "#5dffc0", "#c79bff", "#c9b36b", "#ffffff"),
)


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
            if record.get("annotations"):
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
    record: dict[str, Any], found: Instances, classes: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(record["file_name"], format="RGB")
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    truth = Instances(image.shape[:2])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    truth.pred_boxes = np.array(boxes).reshape(-1, 4)
    truth.pred_classes = np.array([a["category_id"] for a in objects], dtype=np.int64)
    if found.has("pred_masks") and all("segmentation" in a for a in objects):
        truth.pred_masks = [a["segmentation"] for a in objects]
    return overlay(image, truth, classes), overlay(image, found[: len(objects)], classes)


def class_name(classes: Sequence[str] | None, index: int) -> str:
    """The name of a class, or its index if it has none."""
    return str(index) if classes is None or index >= len(classes) else classes[index]


@rc_context(PLAIN)
def overlay(image: np.ndarray, found: Instances, classes: Sequence[str] | None) -> np.ndarray:
    """Draw boxes, classes, and scores and masks if there are, over an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        found: on the CPU, with ``pred_boxes`` and ``pred_classes``, perhaps ``scores`` and
            ``pred_masks``, (n, H, W) or a list of polygons and RLEs.
        classes: names of the classes, or None.

    Returns:
        The picture, uint8 RGB; small images are enlarged.
    """
    found_classes = found.pred_classes.tolist()
    labels = [class_name(classes, index) for index in found_classes]
    if found.has("scores"):
        labels = [f"{a} {b:.2f}" for a, b in zip(labels, found.scores.tolist(), strict=True)]
    masks = found.pred_masks if found.has("pred_masks") else None
    boxes = found.pred_boxes if found.has("pred_boxes") else None
    # Twice as large: the visualizer's letters have a smallest size, too large for small images.
    canvas = Visualizer(image, scale=max(1, 512 // max(image.shape[:2])))
    canvas.overlay_instances(
        boxes=getattr(boxes, "tensor", boxes),
        labels=labels,
        masks=np.asarray(masks) if isinstance(masks, torch.Tensor) else masks,
        assigned_colors=[COLORS[index % len(COLORS)] for index in found_classes],
        alpha=0.5,
    )
    for patch in canvas.output.ax.patches:
        if isinstance(patch, Rectangle):  # opaque, with an edge that shows on any image
            edge = withStroke(linewidth=patch.get_linewidth() + 2, foreground="black")
            patch.set(alpha=1.0, path_effects=[edge])
    return canvas.output.get_image()
