"""Draw detections over images and next to the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ranking_det.visualization.figures import save_figure

PLAIN = {"text.parse_math": False}
"""Matplotlib settings that draw dollar signs in names of files and classes as they are."""

# These stand out from each other, from photographs, and from the red of warnings.
COLORS = (
    *("#ffe119", "#00d5ff", "#7fff00", "#ff6fe0", "#ff9500"),
    *("#5b8cff", "#5dffc0", "#c79bff", "#c9b36b", "#ffffff"),
)


class DetectionExample(NamedTuple):
    """An image with its ground truth and its detections, in the format of :func:`overlay`.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        ground_truth: the objects.
        detections: a model's detections.
    """

    image: np.ndarray
    ground_truth: Instances
    detections: Instances


def draw_examples(
    examples: Sequence[DetectionExample], classes: Sequence[str] | None, picture: str | Path
) -> None:
    """Draw the ground truth of each image next to its detections, two images per row.

    Args:
        examples: the images, at least one.
        classes: names of the classes; None to show their indices.
        picture: the PNG to write.
    """
    num_rows = -(-len(examples) // 2)
    figure = Figure(figsize=(12, 3.1 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, 4, squeeze=False).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for i, (image, ground_truth, detections) in enumerate(examples):
        pairs = ((ground_truth, "ground truth"), (detections, "detections"))
        for axis, (instances, title) in zip(axes[2 * i :], pairs, strict=False):
            axis.imshow(overlay(image, instances, classes))
            axis.set_title(title, fontsize=9)
    save_figure(figure, picture, 110)


def class_name(classes: Sequence[str] | None, index: int) -> str:
    """Return the name of a class, or its index as text if it has no name.

    Args:
        classes: names of the classes, or None.
        index: the class, >= 0.

    Returns:
        The name.
    """
    return str(index) if classes is None or index >= len(classes) else classes[index]


class _Canvas(Visualizer):
    """Detectron2's visualizer, which also accepts colors that rounding has raised above 1."""

    def draw_text(self, text: str, position: Any, *, color: Any = "g", **options: Any) -> Any:
        # Before Python 3.11 colorsys returns such colors, and matplotlib rejects them.
        color = color if isinstance(color, str) else tuple(np.clip(color, 0, 1))
        return super().draw_text(text, position, color=color, **options)


@rc_context(PLAIN)
def overlay(
    image: np.ndarray,
    instances: Instances,
    classes: Sequence[str] | None,
    *,
    with_labels: bool = True,
) -> np.ndarray:
    """Draw instances over an image: classes, and boxes, scores and masks where present.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: on the CPU, with ``pred_classes`` (n,) int64. Optional are ``pred_boxes`` (n, 4)
            XYXY in pixels, ``scores`` (n,), and ``pred_masks``, (n, H, W) or a list of polygons
            and RLEs.
        classes: names of the classes; None to show their indices.
        with_labels: whether to write classes and scores.

    Returns:
        The picture, (h, w, 3) uint8 RGB; small images are enlarged.
    """
    class_indices = instances.pred_classes.tolist()
    labels = [class_name(classes, index) for index in class_indices]
    if instances.has("scores"):
        labels = [f"{n} {s:.2f}" for n, s in zip(labels, instances.scores.tolist(), strict=True)]
    masks = instances.pred_masks if instances.has("pred_masks") else None
    boxes = instances.pred_boxes if instances.has("pred_boxes") else None
    # Small images are enlarged because the visualizer's smallest font would cover them.
    canvas = _Canvas(image, scale=max(1, 512 // max(image.shape[:2])))
    canvas.overlay_instances(
        boxes=boxes.tensor if isinstance(boxes, Boxes) else boxes,
        labels=labels if with_labels else None,
        masks=np.asarray(masks) if isinstance(masks, torch.Tensor) else masks,
        assigned_colors=[COLORS[index % len(COLORS)] for index in class_indices],
        alpha=0.5,
    )
    for patch in canvas.output.ax.patches:
        if isinstance(patch, Rectangle):  # opaque, with a black edge for bright images
            edge = withStroke(linewidth=patch.get_linewidth() + 2, foreground="black")
            patch.set(alpha=1.0, path_effects=[edge])
    return canvas.output.get_image()
