"""Draws whole splits and writes them as image files and annotation files.

Every image has random numbers of its own, from (seed, variant, split, index), so that the files
do not depend on the number of workers or on the size of the other split.
"""

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ranking_det.data.shapes import lvis
from ranking_det.data.shapes.outlines import SHAPES
from ranking_det.data.shapes.scene import MOST_OBJECTS, Category, render

# Raise it with every change that alters pictures or annotations: sets of another version are
# refused, so that two results on "the shapes data set" were always measured on the same one.
GENERATOR_VERSION = 1
VARIANTS = ("shapes", "shapes_lvis")
SPLITS = ("train", "val")
# One image in so many has no object, and one in so many has a crowd.
_EMPTY_EVERY, _CROWD_EVERY = 50, 25
_JPEG_QUALITY = 92
# Too like a circle to be told apart in a few minutes of training.
_LONG_TAIL_ONLY = ("ellipse", "hexagon")


@dataclass(frozen=True)
class Settings:
    """All that decides what a set looks like."""

    variant: str = "shapes"
    train: int = 1000
    val: int = 250
    size: int = 256
    seed: int = 0
    generator: int = GENERATOR_VERSION


def categories_of(variant: str) -> list[Category]:
    """The classes of a variant; category ids are 1 + the index."""
    if variant == "shapes_lvis":
        return lvis.long_tailed_categories()
    return [Category(name, name) for name in SHAPES if name not in _LONG_TAIL_ONLY]


def _draw(settings: Settings, split: str, index: int) -> tuple[bytes, list[dict], dict]:
    """One image: its JPEG, its annotated objects, and the extra fields of its image record."""
    key = (VARIANTS.index(settings.variant), SPLITS.index(split), index)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=key))
    categories = categories_of(settings.variant)
    long_tailed = settings.variant == "shapes_lvis"
    probabilities = lvis.class_probabilities(len(categories)) if long_tailed else None
    empty = index % _EMPTY_EVERY == _EMPTY_EVERY // 2
    count = 0 if empty else int(rng.integers(2, MOST_OBJECTS + 1))
    chosen = rng.choice(len(categories), count, p=probabilities).tolist()
    forced = crowd = None
    turn = index - (index + _EMPTY_EVERY // 2 - 1) // _EMPTY_EVERY  # among images with objects
    if long_tailed and turn < len(categories) and not empty:
        # Every class of the tail is found at least once in each split of 100 images or more.
        chosen[0], forced = turn, turn + 1
    elif not long_tailed and index % _CROWD_EVERY == 7:
        crowd = int(rng.integers(len(categories)))
    image, objects = render(rng, settings.size, categories, chosen, crowd)
    fields: dict = {}
    if long_tailed:
        objects, fields = lvis.federate(objects, len(categories), forced, rng)
        for item in objects:
            del item["iscrowd"]
        # The folder of an LVIS image is found from its URL.
        fields["coco_url"] = f"{split}/{index + 1:06d}.jpg"
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", image, quality)[1].tobytes(), objects, fields


def _write(path: Path, content: bytes) -> None:
    """Writes a file that is on the disk when this returns, not only in a cache."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, content: dict) -> None:
    _write(path, json.dumps(content, separators=(",", ":")).encode())


def _write_images(folder: Path, settings: Settings, split: str, workers: int) -> tuple[list, list]:
    """Writes the images of a split; returns the records of its images and annotations."""
    (folder / split).mkdir()

    def make(index: int) -> tuple[list[dict], dict]:
        jpeg, objects, fields = _draw(settings, split, index)
        _write(folder / split / f"{index + 1:06d}.jpg", jpeg)
        return objects, fields

    count = settings.train if split == "train" else settings.val
    images, annotations = [], []
    # Threads, not processes: OpenCV and numpy leave the interpreter free, and when this process
    # is killed, no child outlives it with the lock in its hands.
    # Closing the map drops what is still to be drawn when the run is interrupted.
    with (
        ThreadPoolExecutor(workers) as pool,
        contextlib.closing(pool.map(make, range(count))) as made,
    ):
        bar = tqdm(made, f"{settings.variant} {split}", count, mininterval=0.5)
        for image_id, (objects, fields) in enumerate(bar, start=1):
            record = {"id": image_id, "file_name": f"{image_id:06d}.jpg"}
            images.append({**record, "height": settings.size, "width": settings.size, **fields})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **item})
    return images, annotations


def write_set(folder: Path, settings: Settings, workers: int) -> None:
    """Draws a set into an empty folder: images, annotations, and meta.json at the end."""
    (folder / "annotations").mkdir()
    categories = categories_of(settings.variant)
    records = [{"id": i, "name": c.name} for i, c in enumerate(categories, start=1)]
    for split in SPLITS:
        images, annotations = _write_images(folder, settings, split, workers)
        if settings.variant == "shapes_lvis" and split == "train":
            records = lvis.category_records(categories, annotations, settings.train)
        content = {
            "info": {"description": f"{settings.variant} {split}", "settings": asdict(settings)},
            "licenses": [],
            "categories": records,
            "images": images,
            "annotations": annotations,
        }
        _write_json(folder / "annotations" / f"instances_{split}.json", content)
    _write_json(folder / "meta.json", asdict(settings))
