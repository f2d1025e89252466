"""Draw the false positives of an image that outrank its objects."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from detectron2.utils.visualizer import GenericMask
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

LONG_SIDE = 640
"""Length of the longer side of the pictures, in pixels."""

QUALITY = 85
"""JPEG quality of the pictures on the page."""

DPI = 100

LABEL = (16, 20)
"""Width and height of a label, in pixels of the picture."""

OBJECT, FALSE = "#56b4e9", "#ff8c3b"
"""Blue and orange, which the color-blind can tell apart."""

BLANK = (96, 96, 96)
"""The color of a missing image."""


def object_label(index: int) -> str:
    """Return the letter of an object in the picture.

    Args:
        index: its number from 0, at most 25.
    """
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]


def draw_ranked_image(
    image: np.ndarray | None, size: tuple[float, float], ranking: Mapping[str, Any]
) -> tuple[bytes, bytes]:
    """Draw objects with solid blue lines, and false positives with dashed orange ones.

    Args:
        image: (H, W, 3) uint8, RGB; None for a gray area.
        size: (width, height) that coordinates refer to, in pixels.
        ranking: ``objects`` with letters and ``false_positives`` with numbers, as
            :func:`ranking_det.evaluation.ranking_errors.describe_ranking` describes them.

    Returns:
        The picture as PNG and as JPEG.
    """
    width, height = size
    scale = LONG_SIDE / max(size)
    # Very long images keep a side of a few pixels.
    inches = max(width * scale, 16) / DPI, max(height * scale, 16) / DPI
    figure = Figure(figsize=inches)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    if image is None:
        image = np.full((1, 1, 3), BLANK, np.uint8)
    axis.imshow(image, extent=(0, width, height, 0), aspect="auto")
    axis.set(xlim=(0, width), ylim=(height, 0))
    label_size = LABEL[0] / scale, LABEL[1] / scale
    labels = [(str(i), e, FALSE) for i, e in enumerate(ranking["false_positives"], start=1)]
    labels += [(object_label(i), e, OBJECT) for i, e in enumerate(ranking["objects"])]
    places: list[tuple[float, float]] = []
    for label, entry, color in labels:
        corner = _outline(axis, entry, size, color, label_size[1])
        if corner is not None:
            places.append(free_place(corner, size, label_size, places))
            x, y = (start + side / 2 for start, side in zip(places[-1], label_size, strict=True))
            back = {"facecolor": color, "edgecolor": "black", "pad": 1.5, "linewidth": 0.7}
            options = {"ha": "center", "va": "center", "fontsize": 11, "weight": "bold"}
            axis.text(x, y, label, color="black", bbox=back, zorder=5, **options)
    contents = []
    for name, options in (("png", {}), ("jpeg", {"pil_kwargs": {"quality": QUALITY}})):
        content = io.BytesIO()
        figure.savefig(content, format=name, dpi=DPI, **options)
        contents.append(content.getvalue())
    return contents[0], contents[1]


def free_place(
    corner: tuple[float, float],
    size: tuple[float, float],
    label_size: tuple[float, float],
    places: Sequence[tuple[float, float]],
) -> tuple[float, float]:
    """Find a place for a label where it covers no other label: near a corner, or next to it.

    Args:
        corner: (x, y), where the upper left corner of the label should be.
        size: (width, height) of the image.
        label_size: (width, height) of a label.
        places: the upper left corners of the other labels.

    Returns:
        The upper left corner of the label, within the image. It covers others if the image is full.
    """
    right, low = (max(side - label, 0) for side, label in zip(size, label_size, strict=True))
    x, y = min(max(corner[0], 0), right), min(max(corner[1], 0), low)
    width, height = label_size
    steps = product(range(-len(places), len(places) + 1), repeat=2)
    # On the same line if possible, and rather to the right.
    for row, column in sorted(steps, key=lambda step: (abs(step[0]), abs(step[1]), -step[1])):
        left, top = x + column * width, y + row * height
        is_inside = 0 <= left <= right and 0 <= top <= low
        if is_inside and all(abs(left - a) >= width or abs(top - b) >= height for a, b in places):
            return left, top
    return x, y


def _outline(
    axis: Axes,
    entry: Mapping[str, Any],
    size: tuple[float, float],
    color: str,
    label_height: float,
) -> tuple[float, float] | None:
    """Draw the mask of an object or a detection if it has one, else its box.

    Returns:
        The upper left corner of its label; None if the mask is empty.
    """
    dashes = "--" if color == FALSE else "-"
    halo = [withStroke(linewidth=4, foreground="black", alpha=0.7)]
    if "segmentation" in entry:
        width, height = (int(side) for side in size)
        pixels = GenericMask(entry["segmentation"], height, width).mask
        if min(pixels.shape) < 2 or not pixels.any():  # an empty mask has no outline
            return None
        grid = np.arange(pixels.shape[1]) + 0.5, np.arange(pixels.shape[0]) + 0.5
        lines = {"colors": color, "linestyles": dashes, "linewidths": 2}
        axis.contour(*grid, pixels, levels=[0.5], **lines).set(path_effects=halo)
        rows = np.flatnonzero(pixels.any(axis=1))
        top, bottom = float(rows[0]), float(rows[-1])
        left = float(pixels[rows[0 if color == FALSE else -1]].argmax())
    else:
        left, top, width, height = entry["bbox"]
        bottom = top + height
        style = {"edgecolor": color, "linestyle": dashes, "linewidth": 2}
        frame = Rectangle((left, top), width, height, fill=False, **style)
        axis.add_patch(frame).set(path_effects=halo)
    # Labels of false positives are above the outline and those of objects below it, so that they
    # do not cover small objects.
    return left, top - label_height if color == FALSE else bottom
