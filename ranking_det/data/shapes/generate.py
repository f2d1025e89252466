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
from ranking_det.data.shapes.scene import MAX_OBJECTS, Category, render

# Every change that alters images or annotations must increase this version. Data sets of another
# version are rejected, so all results on "the shapes data set" come from the same images.
GENERATOR_VERSION = 1
VARIANTS = ("shapes", "shapes_lvis")
SPLITS = ("train", "val")
# One image in 50 has no object, and one in 25 has a crowd.
_EMPTY_EVERY, _CROWD_EVERY = 50, 25
_JPEG_QUALITY = 92
# Shapes of the long-tailed variant only, because a few minutes of training are not enough to tell
# them from a circle.
_LONG_TAIL_SHAPES = ("ellipse", "hexagon")


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


CATEGORIES = {
    "shapes": [Category(name, name) for name in SHAPES if name not in _LONG_TAIL_SHAPES],
    "shapes_lvis": lvis.long_tailed_categories(),
}
"""The classes of each variant, 12 and 98; category ids are 1 + the index."""


def _draw(settings: Settings, split: str, index: int) -> tuple[bytes, list[dict], dict]:
    """Draw one image; return its JPEG, its annotated objects, and extra fields of its record."""
    key = (VARIANTS.index(settings.variant), SPLITS.index(split), index)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=key))
    categories = CATEGORIES[settings.variant]
    long_tailed = settings.variant == "shapes_lvis"
    probabilities = lvis.class_probabilities(len(categories)) if long_tailed else None
    empty = index % _EMPTY_EVERY == _EMPTY_EVERY // 2
    count = 0 if empty else int(rng.integers(2, MAX_OBJECTS + 1))
    classes = rng.choice(len(categories), count, p=probabilities).tolist()
    exhaustive_id = crowd = None
    # The image's index among the images that have objects.
    nonempty_index = index - (index + _EMPTY_EVERY // 2 - 1) // _EMPTY_EVERY
    if long_tailed and nonempty_index < len(categories) and not empty:
        # Each of the first images contains another class, so 100 images contain all classes.
        classes[0], exhaustive_id = nonempty_index, nonempty_index + 1
    elif not long_tailed and index % _CROWD_EVERY == 7:
        crowd = int(rng.integers(len(categories)))
    image, objects = render(rng, settings.size, categories, classes, crowd)
    fields: dict = {}
    if long_tailed:
        objects, fields = lvis.federate(objects, len(categories), exhaustive_id, rng)
        for item in objects:
            del item["iscrowd"]
        # As in LVIS, readers take the image's folder and file name from its URL.
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

    def write_image(index: int) -> tuple[list[dict], dict]:
        jpeg, objects, fields = _draw(settings, split, index)
        _write(folder / split / f"{index + 1:06d}.jpg", jpeg)
        return objects, fields

    count = settings.train if split == "train" else settings.val
    images, annotations = [], []
    # Threads suffice, because OpenCV and numpy release the interpreter lock. Child processes would
    # inherit the file lock, and could outlive this process and hold the lock if it is killed.
    # When the run is interrupted, closing the iterator cancels the remaining images.
    with (
        ThreadPoolExecutor(workers) as pool,
        contextlib.closing(pool.map(write_image, range(count))) as results,
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
        settings: variant, numbers of images, size and seed.
        workers: number of threads, >= 1.
    """
    (folder / "annotations").mkdir()
    categories = CATEGORIES[settings.variant]
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
