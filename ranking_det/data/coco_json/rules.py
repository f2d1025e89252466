"""Rules for the categories, images and references of COCO and LVIS JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from ranking_det.data.coco_json.faults import NOTED, REFUSED, Faults
from ranking_det.data.coco_json.fields import Entry, Section, identifier
from ranking_det.user_errors import show

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
MAX_ID = 2**53
"""From this integer on, ids are not distinct in evaluation libraries, which use float64."""

MAX_SIDE = 65535
"""JPEG's largest side; the libraries that draw masks count pixels in 32 bits."""

_NO_PARENT = (None, "", "none", "None")


def id_order(identity: int | str) -> tuple[bool, int | str]:
    """Return a key that sorts ids: integers first, then text.

    Args:
        identity: the id.
    """
    return isinstance(identity, str), identity


def drop_unused_categories(
    categories: Sequence[Entry], used_ids: Collection[Any], faults: Faults
) -> list[Entry]:
    """Drop the categories that are not classes.

    These are categories that are listed again, as in exports of VIA, and root categories without
    annotations, as in exports of Roboflow. A root category is the ``supercategory`` of others and
    has none itself, or it has the name of another category.

    Args:
        categories: the entries, with ``id`` and ``name``.
        used_ids: the category ids of annotations.
        faults: receives the dropped categories as notes, and ambiguous ids and names as refusals.

    Returns:
        The classes, in the order of the file.
    """
    category_of: dict[Any, Entry] = {}
    index_of: dict[Any, int] = {}
    for index, category in enumerate(categories):
        identity = category["id"]
        if identity not in category_of:
            category_of[identity], index_of[identity] = category, index
        elif category_of[identity]["name"] == category["name"]:
            text = f"the category {show(category['name'])} is listed again"
            faults.add(NOTED, "category listed again", text, "categories", index, category)
        else:
            text = f"another category has the id {identity}"
            faults.add(REFUSED, "duplicate id", text, "categories", index, category)
    parents = [category.get("supercategory") for category in categories]
    names = Counter(category["name"] for category in category_of.values())
    for identity, category in list(category_of.items()):
        name = category["name"]
        is_root = name in parents and category.get("supercategory") in _NO_PARENT
        if identity not in used_ids and len(category_of) > 1 and (is_root or names[name] > 1):
            names[name] -= 1
            del category_of[identity]
            text = f"the root category {show(name)} has no annotation and is not a class"
            faults.add(NOTED, "root category", text, "categories", index_of[identity], category)
    first: dict[str, Any] = {}
    for identity, category in category_of.items():
        name, place = category["name"], ("categories", index_of[identity], category)
        if name in first:
            text = f"category {first[name]} has the same name, {name!r}"
            faults.add(REFUSED, "duplicate name", text, *place)
        first.setdefault(name, identity)
        if not name.strip():
            text = f"'name': expected more than white space, got {show(name)}"
            faults.add(REFUSED, "empty name", text, *place)
        # JSON may contain a lone UTF-16 surrogate, which cannot be written to a file.
        if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
            text = f"'name': expected characters that UTF-8 can encode, got {show(name)}"
            faults.add(REFUSED, "broken name", text, *place)
    return list(category_of.values())


def check_images(images: Sequence[Entry], faults: Faults) -> None:
    """Refuse images with the id of another image, and impossible sizes.

    Args:
        images: the entries, with ``id``; ``width`` and ``height`` may be missing.
        faults: receives the refusals.
    """
    if len({image["id"] for image in images}) < len(images):
        earlier_ids: set[Any] = set()
        for index, image in enumerate(images):
            if image["id"] in earlier_ids:
                text = f"another image has the id {image['id']}"
                faults.add(REFUSED, "duplicate id", text, "images", index, image)
            earlier_ids.add(image["id"])
    for index, image in enumerate(images):
        for key in ("width", "height"):
            if not 1 <= image.get(key, 1) <= MAX_SIDE:
                text = f"{key!r}: expected 1 to {MAX_SIDE}, got {show(image[key])}"
                faults.add(REFUSED, "image size", text, "images", index, image)


def check_lvis_lists(images: list[Entry], class_ids: set[Any], faults: Faults) -> None:
    """Refuse unknown categories in LVIS's lists, and convert the ids to their normal form.

    Args:
        images: the entries; those with converted ids are replaced by copies.
        class_ids: ids of the categories.
        faults: receives the refusals.
    """
    for index, image in enumerate(images):
        for key in LVIS_LISTS:
            identities = image.get(key) or []
            if set(map(type, identities)) <= {int} and class_ids.issuperset(identities):
                continue
            ids = [_known_id(identity, class_ids) for identity in identities]
            for identity, normalized_id in zip(identities, ids, strict=True):
                if normalized_id is None:
                    text = f"{key!r}: expected ids of categories, got {show(identity)}"
                    faults.add(REFUSED, "unknown category", text, "images", index, image)
            images[index] = images[index] | {key: ids}


def _known_id(value: Any, class_ids: Collection[Any]) -> Any:
    """Return an id in its normal form, None if no category has it."""
    try:
        identity = identifier(value)
    except ValueError:
        return None
    return identity if identity in class_ids else None


def check_references(
    section: Section,
    image_ids: Collection[Any],
    class_ids: Collection[Any],
    id_source: str,
    faults: Faults,
) -> None:
    """Refuse annotations or results of unknown images or categories.

    Args:
        section: the entries, with the columns ``image_id`` and ``category_id``.
        image_ids: the ids of the known images.
        class_ids: the ids of the known categories.
        id_source: the place of the known ids for messages, such as "the file".
        faults: receives the refusals.
    """
    for noun, known_ids in (("image", image_ids), ("category", class_ids)):
        ids = section.columns[f"{noun}_id"]
        if set(ids) <= set(known_ids):
            continue
        for index, identity in enumerate(ids):
            if identity not in known_ids:
                phrase = "an image" if noun == "image" else "a category"
                expected = f"expected the id of {phrase} in {id_source}"
                text = f"'{noun}_id': {expected}, got {show(identity)}"
                place = section.name, index, section.entries[index]
                faults.add(REFUSED, f"unknown {noun}", text, *place)
