"""Read the content of a COCO JSON as annotated images, and mend boxes of another form."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ranking_det.data.coco_json.image_files import ImageFinder
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    Findings,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree
from ranking_det.user_errors import UserError, show

BOX_FORMS = ("xywh", "xyxy", "normalized")
"""x, y, width, height in pixels; x1, y1, x2, y2; shares of the image's width and height."""


def identity_of(value: Any) -> str:
    """Return an id as text, the same for 1, 1.0 and "1".

    Args:
        value: an id of an image or a category.

    Returns:
        The text.
    """
    numbers = to_numbers([value], limit=1e15)
    is_whole = numbers is not None and numbers[0] == int(numbers[0]) and len(str(value)) < 16
    return str(int(numbers[0])) if numbers is not None and is_whole else str(value)


def category_names(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the categories of a COCO JSON that have an id and a name, by id.

    Args:
        content: the content of the file.

    Returns:
        The names.
    """
    return {
        identity_of(category["id"]): str(category["name"])
        for category in content["categories"]
        if isinstance(category, dict) and "id" in category and _is_text(category.get("name"))
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def image_entries(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the images of a COCO JSON that have an id and a name, by id.

    Args:
        content: the content of the file.

    Returns:
        The entries; those without an id or a name are left out.
    """
    return {
        identity_of(image["id"]): image
        for image in content["images"]
        if isinstance(image, dict) and "id" in image and _has_name(image)
    }


def _has_name(image: Mapping[str, Any]) -> bool:
    names = [image.get(key) for key in ("file_name", "coco_url")]
    return any(names) and all(isinstance(name, (str, type(None))) for name in names)


class LooseFinder:
    """Find the image files of a COCO JSON, also by another form of their names.

    Args:
        image_root: the folder of the images.
    """

    def __init__(self, image_root: str) -> None:
        self._root = os.path.abspath(image_root)
        self._finder = ImageFinder(image_root)
        self._tree: FileTree | None = None

    def find(self, entry: Mapping[str, Any]) -> str | None:
        """Return the path of an image; None if it is missing.

        The folder is searched for similar names only if an image is not where its entry says.

        Args:
            entry: the entry of the image, with a name.

        Returns:
            The path, or None.
        """
        path = self._finder.find(dict(entry))
        if path is None:
            self._tree = self._tree or FileTree(self._root)
            name = str(entry.get("file_name") or entry.get("coco_url"))
            path = self._tree.find_image(name, self._root)
        return path

    def place(self, entry: Mapping[str, Any]) -> str:
        """Return the path where an image should be.

        Args:
            entry: the entry of the image, with a name.

        Returns:
            The path.
        """
        return self._finder.places(dict(entry))[0]


def read_objects(
    content: Mapping[str, Any], image_root: str, where: str, findings: Findings
) -> list[AnnotatedImage]:
    """Read the images and objects of a COCO JSON.

    Args:
        content: the content of the file.
        image_root: the folder of its images.
        where: the name of the file in messages.
        findings: gets what is left out: images without a file, faulty boxes, unknown ids.

    Returns:
        The images. An RLE mask is left out, with a note.
    """
    finder = LooseFinder(image_root)
    names = category_names(content)
    images: dict[str, AnnotatedImage] = {}
    entries = image_entries(content)
    for _ in range(len(content["images"]) - len(entries)):
        text = "'images': expected a distinct 'id' and a 'file_name' in each entry"
        findings.skip_image("malformed image", where, text)
    for identity, entry in entries.items():
        path = finder.find(entry)
        if path is None:
            findings.skip_image("missing image", where, f"no image file {finder.place(entry)}")
            continue
        size = to_numbers(entry.get(key) or 0 for key in ("width", "height"))
        images[identity] = AnnotatedImage(path)
        if size is not None and min(size) >= 1:
            images[identity].size = int(size[0]), int(size[1])
    num_masks = 0
    for index, annotation in enumerate(content.get("annotations") or []):
        place = f"{where}: annotations[{index}]"
        obj = _read_object(annotation, names, place, findings)
        if obj is None:
            continue
        image = images.get(identity_of(annotation.get("image_id")))
        if image is not None:
            image.objects.append(obj)
            num_masks += isinstance(annotation.get("segmentation"), dict) and not obj.crowd
    if num_masks:
        findings.note(f"{num_masks:,} RLE masks are left out; their boxes are kept")
    return list(images.values())


def _read_object(
    annotation: Any, names: Mapping[str, str], place: str, findings: Findings
) -> AnnotatedObject | None:
    if not isinstance(annotation, dict):
        text = f"expected an object, got {show(annotation)}"
        findings.skip_object("malformed object", place, text)
        return None
    name = names.get(identity_of(annotation.get("category_id")))
    if name is None:
        expected = "'category_id': expected the id of a category"
        text = f"{expected}, got {show(annotation.get('category_id'))}"
        findings.skip_object("unknown category", place, text)
        return None
    box = annotation.get("bbox")
    numbers = to_numbers(box) if isinstance(box, list) else None
    if numbers is None or len(numbers) != 4:
        text = f"'bbox': expected 4 numbers x, y, width, height, got {show(box)}"
        findings.skip_object("malformed box", place, text)
        return None
    mask = annotation.get("segmentation")
    parts = [part for part in mask if isinstance(part, list)] if isinstance(mask, list) else []
    polygons = [polygon for part in parts if (polygon := to_numbers(part)) and len(polygon) >= 6]
    x, y, width, height = numbers
    return AnnotatedObject(
        name,
        (x, y, width, height),
        polygons,
        difficult=bool(annotation.get("ignore")),
        crowd=str(annotation.get("iscrowd")) == "1",
        place=place,
    )


def mend_boxes(content: Mapping[str, Any], form: str, where: str) -> dict[str, Any]:
    """Return a COCO JSON with boxes as x, y, width, height in pixels.

    Args:
        content: the content of the file; it is not changed.
        form: the form of its boxes, one of :data:`BOX_FORMS`.
        where: the name of the file in messages.

    Returns:
        The content with other boxes, and with the areas of the boxes of objects without a mask.

    Raises:
        UserError: most boxes have no size when they are read in this form.
    """
    if form == "xywh":
        return dict(content)
    sizes = {
        identity: to_numbers([entry.get("width"), entry.get("height")])
        for identity, entry in image_entries(content).items()
    }
    mended, flat = [], 0
    for annotation in content.get("annotations") or []:
        box = annotation.get("bbox") if isinstance(annotation, dict) else None
        numbers = to_numbers(box) if isinstance(box, list) else None
        if numbers is not None and len(numbers) == 4:
            size = sizes.get(identity_of(annotation.get("image_id")))
            new = _MENDERS[form](numbers, size)
            flat += min(new[2:]) <= 0
            annotation = {**annotation, "bbox": new}
            if not annotation.get("segmentation"):
                annotation["area"] = max(new[2], 0) * max(new[3], 0)
        mended.append(annotation)
    if flat > len(mended) / 2:
        text = f"{flat:,} of {len(mended):,} boxes have no size as {form}"
        raise UserError(f"{where}: {text}; give the form that the file has")
    return {**content, "annotations": mended}


def _from_corners(box: list[float], size: list[float] | None) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _from_shares(box: list[float], size: list[float] | None) -> list[float]:
    return [value * (size[i % 2] if size else 0) for i, value in enumerate(box)]


_MENDERS: dict[str, Callable[[list[float], list[float] | None], list[float]]] = {
    "xyxy": _from_corners,
    "normalized": _from_shares,
}
