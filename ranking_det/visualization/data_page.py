"""HTML page about a data set, without scripts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import Instances
from matplotlib.image import imsave

from ranking_det.visualization.detections import COLORS, overlay
from ranking_det.visualization.page import data_url, render

LONG_SIDE = 800
"""Length of the longer side of the pictures, in pixels."""

MAX_LABELS = 30
"""In pictures with more objects than this, labels (or boxes around masks) would hide the image."""

QUALITY = 85
"""JPEG quality of the pictures."""


class SamplePicture(NamedTuple):
    """A picture with its caption.

    Attributes:
        caption: what it shows, such as the file name.
        remark: why it was chosen; may be "".
        data: the picture as a data URL.
    """

    caption: str
    remark: str
    data: str


def picture_transform(size: tuple[int, int]) -> ResizeTransform:
    """Return the transform that resizes an image for the page.

    Args:
        size: (height, width) in pixels.
    """
    scale = min(1.0, LONG_SIDE / max(size))
    resized = (max(1, round(side * scale)) for side in size)
    return ResizeTransform(*size, *resized)


def draw_sample(
    caption: str, remark: str, image: np.ndarray, instances: Instances, classes: Sequence[str]
) -> SamplePicture:
    """Draw the objects of an image.

    Args:
        caption: the name of the image.
        remark: why it was chosen.
        image: (H, W, 3) uint8, RGB.
        instances: see :func:`ranking_det.visualization.detections.overlay`.
        classes: names of the classes.

    Returns:
        The picture. Labels are drawn only if there are few objects and several classes. Masks have
        no boxes around them if there are many objects.
    """
    is_full = len(instances) > MAX_LABELS
    if is_full and instances.has("pred_masks"):
        instances.remove("pred_boxes")
    with_labels = len(classes) > 1 and not is_full
    picture = overlay(image, instances, classes, with_labels=with_labels)
    file = io.BytesIO()
    imsave(file, picture, format="jpeg", pil_kwargs={"quality": QUALITY})
    return SamplePicture(caption, remark, data_url(file.getvalue(), "jpeg"))


def render_page(report: Mapping[str, Any], pictures: Mapping[str, Sequence[SamplePicture]]) -> str:
    """Render the page about a data set.

    Args:
        report: the numbers, as ``python -m ranking_det.analysis data`` writes them to data.json.
        pictures: the pictures of each split.

    Returns:
        The HTML.
    """
    return render("data_page.html", {**report, "pictures": pictures, "colors": COLORS})
