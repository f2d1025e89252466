"""Generate the splits of a shapes data set: JPEG images and COCO or LVIS JSON.

Every image has its own random generator, seeded by (seed, variant, split, index). The files
therefore do not depend on the number of workers or on the size of the other split.
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

# Increase it with every change that alters images or annotations. Sets of another version are
# refused, so two results on "the shapes data set" are always measured on the same images.
GENERATOR_VERSION = 1
VARIANTS = ("shapes", "shapes_lvis")
SPLITS = ("train", "val")
# One image in 50 has no object, and one in 25 has a crowd.
_EMPTY_EVERY, _CROWD_EVERY = 50, 25
_JPEG_QUALITY = 92
# Too similar to a circle to be distinguished after a few minutes of training.
_LONG_TAIL_ONLY = ("ellipse", "hexagon")


@dataclass(frozen=True)
class Settings:
    """Settings that determine the content of a shapes data set.

    Attributes:
        variant: "shapes" or "shapes_lvis".
        train: number of training images, >= 1.
        val: number of validation images, >= 1.
        size: side of the square images in pixels, >= 32.
        seed: random seed, >= 0.
        generator: version of the generator.
    """

    variant: str = "shapes"
    train: int = 1000
    val: int = 250
    size: int = 256
    seed: int = 0
    generator: int = GENERATOR_VERSION


def categories_of(variant: str) -> list[Category]:
    """Return the classes of a variant; category ids are 1 + the index.

    Args:
        variant: "shapes" (12 classes) or "shapes_lvis" (98 classes).
    """
    if variant == "shapes_lvis":
        return lvis.long_tailed_categories()
    return [Category(name, name) for name in SHAPES if name not in _LONG_TAIL_ONLY]


def _draw(settings: Settings, split: str, index: int) -> tuple[bytes, list[dict], dict]:
    """Draw one image; return its JPEG, its annotated objects, and extra fields of its record."""
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
        # Every class then occurs at least once in each split of 100 images or more.
        chosen[0], forced = turn, turn + 1
    elif not long_tailed and index % _CROWD_EVERY == 7:
        crowd = int(rng.integers(len(categories)))
    image, objects = render(rng, settings.size, categories, chosen, crowd)
    fields: dict = {}
    if long_tailed:
        objects, fields = lvis.federate(objects, len(categories), forced, rng)
        for item in objects:
            del item["iscrowd"]
        # The URL of an LVIS image gives its folder.
        fields["coco_url"] = f"{split}/{index + 1:06d}.jpg"
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", image, quality)[1].tobytes(), objects, fields


def _write(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk (fsync)."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, content: dict) -> None:
    _write(path, json.dumps(content, separators=(",", ":")).encode())


def _write_images(folder: Path, settings: Settings, split: str, workers: int) -> tuple[list, list]:
    """Write the images of a split; return the records of its images and annotations."""
    (folder / split).mkdir()

    def make(index: int) -> tuple[list[dict], dict]:
        jpeg, objects, fields = _draw(settings, split, index)
        _write(folder / split / f"{index + 1:06d}.jpg", jpeg)
        return objects, fields

    count = settings.train if split == "train" else settings.val
    images, annotations = [], []
    # Threads, not processes: OpenCV and numpy release the interpreter lock, and no child process
    # that still holds the file lock outlives this process when it is killed.
    # Closing the map drops the remaining images when the run is interrupted.
    with (
        ThreadPoolExecutor(workers) as pool,
        contextlib.closing(pool.map(make, range(count))) as results,
    ):
        bar = tqdm(results, f"{settings.variant} {split}", count, mininterval=0.5)
        for image_id, (objects, fields) in enumerate(bar, start=1):
            record = {"id": image_id, "file_name": f"{image_id:06d}.jpg"}
            images.append({**record, "height": settings.size, "width": settings.size, **fields})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **item})
    return images, annotations


def write_set(folder: Path, settings: Settings, workers: int) -> None:
    """Generate a data set in an empty folder: images, annotations, and meta.json at the end.

    Args:
        folder: an existing, empty folder.
        settings: the settings of the set.
        workers: number of threads, >= 1.
    """
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
