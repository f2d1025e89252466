"""Preview pages: a training image with its ground-truth objects and their positives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ranking_det.user_errors import quantity
from ranking_det.visualization.detections import COLORS, PLAIN
from ranking_det.visualization.figures import save_figure

DPI = 100
LONG_SIDE = 900
"""Minimum length of the drawn image's longer side, in pixels."""

# Pixels for text, both above and below the image; pixels for the edges of boxes, left and right in
# total.
MARGIN, SIDE_MARGIN = 46, 24

WARNING = "#ff1e1e"


class DrawnPositives(NamedTuple):
    """The positives of one image, and how captions describe them.

    Attributes:
        boxes: (P, 4) XYXY in pixels of the image.
        objects: (P,) int64, the index of the object to which each is matched.
        description: what the positives of an object are, such as "the anchors matched to it".
        task: what they are trained to do with an object, "find" or "propose".
        are_points: whether only the centers of the boxes are meaningful. The boxes are not drawn
            then.
    """

    boxes: np.ndarray
    objects: np.ndarray
    description: str = "the anchors matched to it"
    task: str = "find"
    are_points: bool = False


@rc_context(PLAIN)
def draw_preview(
    picture: str | Path,
    name: str,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    positives: DrawnPositives | None,
) -> None:
    """Draw the objects of a training image and the positives that are matched to them.

    Each object gets its box, its class and the number of its positives, which have the color of
    its label. An object without a positive is red.

    Args:
        picture: the PNG to write.
        name: the image's name, for the title.
        image: (H, W, 3) uint8, RGB.
        boxes: (G, 4) the objects' boxes, XYXY in pixels.
        labels: the G names of their classes.
        positives: the positives of the image; None to draw the objects only.
    """
    figure, axis = _canvas(*image.shape[:2])
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="nearest")
    title = f"{name}   {quantity(len(boxes), 'object', 'objects')}"
    caption = "white box: annotated object"
    counts: list[int | None] = [None] * len(boxes)
    if positives is not None:
        _draw_positives(axis, positives)
        numbers = np.bincount(positives.objects, minlength=len(boxes)).tolist()
        counts, missed = numbers, numbers.count(0)
        title += f", {quantity(sum(numbers), 'positive', 'positives')}"
        title += f", {missed} WITHOUT A POSITIVE" if missed else ""
        centers = "" if positives.are_points else " and their centers"
        caption += f"    in its label's color: {positives.description} (its positives){centers}"
        caption += "\nred box: object without a positive, which the model is not trained to "
        caption += positives.task
    for i, box in enumerate(boxes.tolist()):
        _draw_object(axis, box, labels[i], i, counts[i])
    _write_around(figure, title, caption)
    save_figure(figure, picture, DPI)


def _canvas(height: int, width: int) -> tuple[Figure, Axes]:
    """Make a figure for the image, enlarged if it is small, with margins for text."""
    scale = max(1.0, LONG_SIDE / max(height, width))
    image_height, full_width = height * scale, max(width * scale, 640)
    full_width, full_height = full_width + SIDE_MARGIN, image_height + 2 * MARGIN
    figure = Figure(figsize=(full_width / DPI, full_height / DPI))
    left = (1 - width * scale / full_width) / 2
    axis = figure.add_axes(
        (left, MARGIN / full_height, width * scale / full_width, image_height / full_height)
    )
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.axis("off")
    return figure, axis


def _write_around(figure: Figure, title: str, caption: str) -> None:
    figure.text(0.5, 0.995, title, ha="center", va="top", fontsize=13)
    figure.text(0.5, 0.005, caption, ha="center", va="bottom", fontsize=9)


def _draw_positives(axis: Axes, positives: DrawnPositives) -> None:
    """Draw anchors as thin boxes, fainter the more there are, and their centers as dots."""
    boxes = positives.boxes
    colors = np.array([_color(int(i)) for i in positives.objects])
    if not positives.are_points:
        patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
        style = {"lw": 0.9, "alpha": min(0.9, max(0.15, 30 / max(len(boxes), 1)))}
        axis.add_collection(PatchCollection(patches, fc="none", edgecolors=colors, **style))
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    axis.scatter(*centers.T, s=22, c=colors, edgecolors="black", linewidths=0.7, zorder=3)


def _draw_object(axis: Axes, box: list[float], name: str, index: int, count: int | None) -> None:
    """Draw one object's box and label; ``count`` is its number of positives, None if unknown."""
    x1, y1, x2, y2 = box
    missed = count == 0
    layer = 6 if missed else 4  # objects without a positive are drawn on top
    color, width, halo = (WARNING, 3, 5) if missed else ("white", 1.8, 3.4)
    frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width)
    outline = [withStroke(linewidth=halo, foreground="black")]
    axis.add_patch(frame).set(path_effects=outline, clip_on=False, zorder=layer)
    label = name if count is None else f"{name}: {quantity(count, 'positive', 'positives')}"
    x, alignment_side = (x2, "right") if x1 > 0.7 * axis.get_xlim()[1] else (x1, "left")
    vertical = "top" if y1 < 0.03 * axis.get_ylim()[0] else "bottom"
    font = {"color": "white", "weight": "bold"} if missed else {"color": "black"}
    label_box = {
        "facecolor": WARNING if missed else _color(index),
        "edgecolor": "black",
        "pad": 1.5,
    }
    alignment = {"ha": alignment_side, "va": vertical, "zorder": layer + 1}
    axis.text(x, y1, label, fontsize=9, bbox=label_box, **alignment, **font)


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]
