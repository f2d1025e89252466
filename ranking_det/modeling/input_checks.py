"""Check the ground truth where it enters a model, while it is still on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ranking_det.checks import check_classes
from ranking_det.user_errors import UserError


def image_name(inputs: Mapping[str, Any]) -> str:
    """Return the file name of an image, else its id, for a message.

    Args:
        inputs: the image in Detectron2's format.

    Returns:
        The name, or "?" if the image has neither.
    """
    return str(inputs.get("file_name") or inputs.get("image_id", "?"))


def check_objects(batched_inputs: Iterable[Mapping[str, Any]], num_classes: int) -> None:
    """Check that the class of every ground-truth object is in 0..K-1.

    Data loaders give objects on the CPU, where the check does not synchronize host and GPU. Objects
    on a GPU are not checked.

    Args:
        batched_inputs: one dict per image; an image without ``instances`` is not checked.
        num_classes: K.

    Raises:
        UserError: a class is out of range; the message names the image.
    """
    for inputs in batched_inputs:
        objects = inputs.get("instances")
        if objects is None or not objects.has("gt_classes"):
            continue
        try:
            check_classes("'category_id'", objects.gt_classes, num_classes)
        except ValueError as error:
            raise UserError(f"the image {image_name(inputs)!r}: {error}") from None
