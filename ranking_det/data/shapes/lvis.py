"""Long-tailed, federated variant of the shapes: 98 classes with the fields of LVIS v1.

A class is a shape with a filling. Categories have LVIS's `frequency`: r(are), c(ommon) or
f(requent), by the number of training images that contain them. LVIS sets the limits at 10 and 100
of its 100,000 training images. A set of 1,000 images needs larger shares for a similar
distribution, so the limits here are 1% and 3% of the training images. By default, 23% of the
categories are r, 46% c and 31% f (LVIS: 28, 38 and 34%). As in LVIS, the validation file repeats
the categories with their training counts.

The annotation is federated, as in LVIS (A. Gupta, P. Dollár, R. Girshick: LVIS, CVPR 2019,
section 2). In each image, every category is one of
- present and annotated exhaustively: an unmatched detection is a false positive;
- present and in `not_exhaustive_category_ids`: some objects are not annotated, so an unmatched
  detection is ignored;
- in `neg_category_ids`: verified to be absent, so every detection is a false positive;
- in no list: unknown, so every detection is ignored. Some of these are in the image.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from ranking_det.data.shapes.outlines import SHAPES
from ranking_det.data.shapes.paint import STYLES
from ranking_det.data.shapes.scene import Category

RARE_SHARE, COMMON_SHARE = 0.01, 0.03
_ZIPF_EXPONENT = 1.3
# Shares of the (image, category) pairs that are not annotated, or not exhaustively.
_UNKNOWN_SHARE, _NOT_EXHAUSTIVE_SHARE = 0.1, 0.15
_NEGATIVES = (4, 10)


def long_tailed_categories() -> list[Category]:
    """Return all 98 classes, sorted by name as in LVIS; category ids are 1 + the index."""
    fields = sorted((f"{style}_{shape}", shape, style) for shape in SHAPES for style in STYLES)
    return [Category(*of_class) for of_class in fields]


def class_probabilities(count: int) -> np.ndarray:
    """Return the Zipf-like probabilities of the classes, the same for every set and seed.

    The class of rank r = 1, 2, ... has a probability proportional to r ** -1.3.

    Args:
        count: number of classes, >= 1.

    Returns:
        (count,) float64, with sum 1.
    """
    ranks = np.random.default_rng(2024).permutation(count) + 1
    weights = 1.0 / ranks**_ZIPF_EXPONENT
    return weights / weights.sum()


def federate(
    objects: Sequence[dict], count: int, exhaustive_id: int | None, rng: Generator
) -> tuple[list[dict], dict[str, list[int]]]:
    """Make the annotation of one image federated, as if LVIS's annotators had done it.

    Args:
        objects: all objects in the image, from `render`.
        count: number of categories.
        exhaustive_id: id of a category that is annotated exhaustively if it is present, or None.
        rng: random generator of all other choices.

    Returns:
        The annotated objects, and a dict with the image's `neg_category_ids` and
        `not_exhaustive_category_ids`.
    """
    present = sorted({item["category_id"] for item in objects})
    annotated: list[dict] = []
    not_exhaustive = []
    for category in present:
        items = [item for item in objects if item["category_id"] == category]
        draw = rng.random()
        if category != exhaustive_id and draw < _UNKNOWN_SHARE:
            continue
        if (
            category != exhaustive_id
            and len(items) > 1
            and draw < _UNKNOWN_SHARE + _NOT_EXHAUSTIVE_SHARE
        ):
            not_exhaustive.append(category)
            items = items[: int(rng.integers(1, len(items)))]
        annotated += items
    absent = np.setdiff1d(np.arange(1, count + 1), present)
    negative_ids = rng.choice(absent, int(rng.integers(*_NEGATIVES)), replace=False)
    fields = {"neg_category_ids": sorted(negative_ids.tolist())}
    return annotated, fields | {"not_exhaustive_category_ids": not_exhaustive}


def frequency_group(image_count: int, train_images: int) -> str:
    """Return LVIS's frequency of a category: "r", "c" or "f".

    Args:
        image_count: number of training images that contain the category.
        train_images: number of training images.
    """
    if image_count <= RARE_SHARE * train_images:
        return "r"
    return "c" if image_count <= COMMON_SHARE * train_images else "f"


def category_records(
    categories: Sequence[Category], annotations: Sequence[dict], train_images: int
) -> list[dict]:
    """Return the "categories" of an LVIS JSON, with counts over the training annotations.

    Args:
        categories: all classes; ids are 1 + the index.
        annotations: the annotations of the training split.
        train_images: number of training images.
    """
    instances = Counter(a["category_id"] for a in annotations)
    images = Counter(c for c, _ in {(a["category_id"], a["image_id"]) for a in annotations})
    return [
        {
            "id": i,
            "name": category.name,
            "synset": f"{category.name}.n.01",
            "synonyms": [category.name],
            "def": f"a {category.shape.replace('_', ' ')} with a {category.style} filling",
            "frequency": frequency_group(images[i], train_images),
            "image_count": images[i],
            "instance_count": instances[i],
        }
        for i, category in enumerate(categories, start=1)
    ]
