"""Draw the false positives of an image that outrank its objects."""

from __future__ import annotations

import io
from collections.abc import Mapping
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
            :func:`ranking_det.evaluation.image_ranking.describe_ranking` describes them.

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
    for number, entry in enumerate(ranking["false_positives"], start=1):
        _outline(axis, entry, size, FALSE, "--", str(number))
    for index, entry in enumerate(ranking["objects"]):
        _outline(axis, entry, size, OBJECT, "-", object_label(index))
    contents = []
    for name, options in (("png", {}), ("jpeg", {"pil_kwargs": {"quality": QUALITY}})):
        content = io.BytesIO()
        figure.savefig(content, format=name, dpi=DPI, **options)
        contents.append(content.getvalue())
    return contents[0], contents[1]


def _outline(
    axis: Axes,
    entry: Mapping[str, Any],
    size: tuple[float, float],
    color: str,
    dashes: str,
    label: str,
) -> None:
    """Draw the mask of an object or a detection if it has one, else its box; write its label."""
    style = {"edgecolor": color, "linestyle": dashes, "linewidth": 2}
    halo = [withStroke(linewidth=4, foreground="black", alpha=0.7)]
    if "segmentation" in entry:
        width, height = (int(side) for side in size)
        pixels = GenericMask(entry["segmentation"], height, width).mask
        if min(pixels.shape) < 2 or not pixels.any():  # an empty mask has no outline
            return
        grid = np.arange(pixels.shape[1]) + 0.5, np.arange(pixels.shape[0]) + 0.5
        lines = {"colors": color, "linestyles": dashes, "linewidths": 2}
        axis.contour(*grid, pixels, levels=[0.5], **lines).set(path_effects=halo)
        rows = np.flatnonzero(pixels.any(axis=1))
        top, bottom = float(rows[0]), float(rows[-1])
        left = float(pixels[rows[0 if color == FALSE else -1]].argmax())
    else:
        left, top, width, height = entry["bbox"]
        bottom = top + height
        frame = Rectangle((left, top), width, height, fill=False, **style)
        axis.add_patch(frame).set(path_effects=halo)
    # Labels of false positives are above the outline and those of objects below it, so that they
    # do not cover small objects, or each other where two outlines are the same.
    margin = 0.05 * size[1]
    if color == FALSE:
        y, vertical = (top, "bottom") if top > margin else (max(top, 0), "top")
    else:
        y, vertical = (bottom, "top") if bottom < size[1] - margin else (size[1], "bottom")
    x = min(max(left, 0.015 * size[0]), 0.97 * size[0])
    back = {"facecolor": color, "edgecolor": "black", "pad": 1.5, "linewidth": 0.7}
    options = {"ha": "left", "va": vertical, "fontsize": 11, "weight": "bold", "color": "black"}
    axis.text(x, y, label, bbox=back, zorder=5, **options)
