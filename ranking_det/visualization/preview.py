"""Pictures of what a model is trained with: augmented images, their objects, their positives."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor, nn

from ranking_det.engine.errors import check_output_dir
from ranking_det.modeling.interface import Positives, interface_of
from ranking_det.user_errors import UserError
from ranking_det.visualization.detections import COLORS, PLAIN, class_name

logger = logging.getLogger(__name__)

DPI = 100
LONG_SIDE = 900
"""Pixels of the drawn image's longer side, at least."""

# Pixels above and below the image for words; left and right of it together for the edges of boxes.
MARGIN, SIDE_MARGIN = 46, 24

WARNING = "#ff1e1e"


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


def preview(
    model: nn.Module,
    batches: Iterable[list[dict[str, Any]]],
    num_images: int,
    output_dir: str | Path,
    class_names: Sequence[str] | None = None,
) -> PreviewSummary:
    """Draw training images as the model sees them, with their objects and what is assigned to them.

    An image becomes ``preview_0001.png`` and so on: each object's box, class and number of
    positives, and the positives in the object's colour; an object without one is red. A model that
    does not tell its positives (see :class:`DetectorInterface`) gets boxes only.

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
    detector, told = interface_of(model), True
    counts: list[Tensor] = []
    for batch in _first(batches, num_images):
        positives = detector.find_positives(batch)
        if positives is None and told:
            logger.warning("The positives of %s are not known: boxes only", type(model).__name__)
            told = False
        for inputs, own in zip(batch, positives or [None] * len(batch), strict=True):
            counts.append(_count(inputs, own))
            figure = _draw(inputs, own, class_names, detector.input_format)
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"preview_{len(counts):04d}.png", dpi=DPI)
    if not counts:
        raise UserError("--preview: the training loader gives no image")
    every = torch.cat(counts)
    totals = (int(every.sum()), int((every == 0).sum())) if told else (None, None)
    logger.info("%d images are drawn in %s", len(counts), folder)
    return PreviewSummary(len(counts), len(every), *totals)


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


def _count(inputs: dict[str, Any], positives: Positives | None) -> Tensor:
    """The number of positives (G,) of each object of an image."""
    empty = torch.zeros(0, dtype=torch.int64)
    index = empty if positives is None else positives.index.cpu()
    return torch.bincount(index, minlength=len(inputs["instances"]))


@rc_context(PLAIN)
def _draw(
    inputs: dict[str, Any],
    positives: Positives | None,
    class_names: Sequence[str] | None,
    image_format: str,
) -> Figure:
    """A figure of one image."""
    image = _rgb(inputs["image"], image_format)
    counts = None if positives is None else _count(inputs, positives).tolist()
    figure, axis = _canvas(*image.shape[:2])
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="nearest")
    if positives is not None:
        anchors, index = positives.boxes.cpu().numpy(), positives.index.cpu().numpy()
        _draw_positives(axis, anchors, index, points=positives.are_points)
    instances = inputs["instances"].to("cpu")
    for i, box in enumerate(instances.gt_boxes.tensor.tolist()):
        name = class_name(class_names, int(instances.gt_classes[i]))
        _draw_object(axis, box, name, i, None if counts is None else counts[i])
    title = f"{Path(inputs.get('file_name', '')).name}   {_plural(len(instances), 'object')}"
    caption = "white box: object as it is annotated"
    if positives is not None and counts is not None:
        title += f", {_plural(sum(counts), 'positive')}"
        missed = counts.count(0)
        title += f", {missed} WITHOUT A POSITIVE" if missed else ""
        centers = "" if positives.are_points else " and their centres"
        caption += f"    in its label's colour: {positives.description} (its positives){centers}"
        caption += "\nred box: object without a positive, which nothing is trained to "
        caption += positives.task
    _write_around(figure, title, caption)
    return figure


def _rgb(image: Tensor, image_format: str) -> np.ndarray:
    """A model's input (3, H, W) -> (H, W, 3) uint8 RGB."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    if image_format != "RGB":
        pixels = convert_image_to_rgb(pixels, image_format)
    return pixels.clip(0, 255).astype(np.uint8)


def _canvas(height: int, width: int) -> tuple[Figure, Axes]:
    """A figure with room for the image, enlarged if it is small, and for words around it."""
    scale = max(1.0, LONG_SIDE / max(height, width))
    drawn, side = height * scale, max(width * scale, 640)
    side, total = side + SIDE_MARGIN, drawn + 2 * MARGIN
    figure = Figure(figsize=(side / DPI, total / DPI))
    left = (1 - width * scale / side) / 2
    axis = figure.add_axes((left, MARGIN / total, width * scale / side, drawn / total))
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.axis("off")
    return figure, axis


def _write_around(figure: Figure, title: str, caption: str) -> None:
    figure.text(0.5, 0.995, title, ha="center", va="top", fontsize=13)
    figure.text(0.5, 0.005, caption, ha="center", va="bottom", fontsize=9)


def _draw_positives(axis: Axes, anchors: np.ndarray, index: np.ndarray, *, points: bool) -> None:
    """Anchors as thin boxes, fainter the more there are, and their centres as dots."""
    colors = np.array([_color(int(i)) for i in index])
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    if not points:
        boxes = [Rectangle((a[0], a[1]), a[2] - a[0], a[3] - a[1]) for a in anchors]
        alpha = min(0.9, max(0.15, 30 / max(len(anchors), 1)))
        axis.add_collection(
            PatchCollection(boxes, facecolors="none", edgecolors=colors, lw=0.9, alpha=alpha)
        )
    axis.scatter(
        centers[:, 0], centers[:, 1], s=22, c=colors, edgecolors="black", linewidths=0.7, zorder=3
    )


def _draw_object(axis: Axes, box: list[float], name: str, index: int, count: int | None) -> None:
    """One object's box and label; ``count`` is that of its positives, None if unknown."""
    x1, y1, x2, y2 = box
    missed = count == 0
    layer = 6 if missed else 4  # nothing hides what is missed
    axis.add_patch(
        Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=WARNING if missed else "white",
            linewidth=3 if missed else 1.8,
            path_effects=[withStroke(linewidth=5 if missed else 3.4, foreground="black")],
            clip_on=False,
            zorder=layer,
        )
    )
    label = name if count is None else f"{name}: {_plural(count, 'positive')}"
    width, height = axis.get_xlim()[1], axis.get_ylim()[0]
    right = x1 > 0.7 * width
    axis.text(
        x2 if right else x1,
        y1,
        label,
        fontsize=9,
        ha="right" if right else "left",
        va="top" if y1 < 0.03 * height else "bottom",
        color="white" if missed else "black",
        weight="bold" if missed else "normal",
        bbox={"facecolor": WARNING if missed else _color(index), "edgecolor": "black", "pad": 1.5},
        zorder=layer + 1,
    )


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")
