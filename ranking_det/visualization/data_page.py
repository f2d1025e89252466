"""Write an HTML page about a data set: one file, without scripts and without network access."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import Instances
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.image import imsave

from ranking_det.visualization.detections import COLORS, overlay

LONG_SIDE = 800
"""Length of the longer side of the pictures, in pixels."""

MAX_LABELS = 30
"""In pictures with more objects than this, labels (or boxes around masks) would hide the image."""

QUALITY = 85
"""JPEG quality of the pictures."""

NO_BREAK = "\N{NO-BREAK SPACE}"


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
    drawn = overlay(image, instances, classes, with_labels=with_labels)
    file = io.BytesIO()
    imsave(file, drawn, format="jpeg", pil_kwargs={"quality": QUALITY})
    encoded = base64.b64encode(file.getvalue()).decode()
    return SamplePicture(caption, remark, f"data:image/jpeg;base64,{encoded}")


def render_page(report: Mapping[str, Any], pictures: Mapping[str, Sequence[SamplePicture]]) -> str:
    """Render the page about a data set.

    All texts are escaped, because class and file names may come from untrusted sources.

    Args:
        report: the numbers, as ``python -m ranking_det.analysis data`` writes them to data.json.
        pictures: the pictures of each split.

    Returns:
        The HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    template = environment.get_template("data_page.html")
    page = template.render(report, pictures=pictures, colors=COLORS)
    return page.encode(
        errors="replace"
    ).decode()  # file names may contain bytes that are not valid UTF-8


def percent(share: float) -> str:
    """Return a share as a percentage: a whole number from 10 % on, else with one decimal place.

    Args:
        share: in [0, 1].

    Returns:
        The text, with a no-break space.

    >>> [percent(share).replace(NO_BREAK, " ") for share in (0.123, 0.0456, 0.0001, 0)]
    ['12 %', '4.6 %', '< 0.1 %', '0 %']
    """
    if 0 < share < 0.001:
        return f"<{NO_BREAK}0.1{NO_BREAK}%"
    digits = 0 if share >= 0.0995 or share == 0 else 1
    return f"{100 * share:.{digits}f}{NO_BREAK}%"
