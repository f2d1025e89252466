"""A data set that is not COCO JSON, in one file: a folder of images and a CSV with their boxes.

The CSV has a header and a row per object, with corners in pixels:

    file_name,x1,y1,x2,y2,label
    000001.jpg,12,30,77,95,circle

An image of the folder without a row has no objects. To run the example, make its files from the
shapes first:

    python -m examples.csv_boxes
    python train_net.py --config-file examples/csv_boxes_shapes.py

``--preview 4``, ``--resume``, ``--eval-only`` and ``--predict`` work as with any data set. Copy the
file and change :func:`load_records`.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from PIL import Image

from ranking_det.data.catalog import register_set
from ranking_det.data.shapes import CATEGORIES, prepare_shapes, shapes_folder

FIELDS = ("file_name", "x1", "y1", "x2", "y2", "label")
CLASSES = [category.name for category in CATEGORIES["shapes"]]
SPLITS = ("train", "val")


def load_records(csv_file: Path, image_folder: Path) -> list[dict[str, Any]]:
    """Read the CSV into Detectron2's dataset dicts, one per image of the folder.

    Args:
        csv_file: a CSV with the columns of ``FIELDS``.
        image_folder: the folder of the images.

    Raises:
        ValueError: an image or a class is unknown, or a box has no area.
    """
    objects = defaultdict(list)
    with csv_file.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            location, box = f"{csv_file}, line {number}", [float(row[key]) for key in FIELDS[1:5]]
            if row["label"] not in CLASSES:
                raise ValueError(f"{location}: label: expected a class, got {row['label']!r}")
            if box[2] <= box[0] or box[3] <= box[1]:
                raise ValueError(f"{location}: expected x1 < x2 and y1 < y2, got {box}")
            entry = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
            entry["category_id"] = CLASSES.index(row["label"])  # the class 0..K-1
            objects[row["file_name"]].append(entry)
    records = []
    for i, path in enumerate(sorted(image_folder.iterdir()), start=1):
        width, height = Image.open(path).size  # reads the header only
        record = {"file_name": str(path), "image_id": i, "width": width, "height": height}
        records.append({**record, "annotations": objects.pop(path.name, [])})
    if objects:
        raise ValueError(f"{csv_file}: {next(iter(objects))!r} is not in {image_folder}")
    return records


def register_csv_shapes() -> None:
    """Register "csv_train" and "csv_val" with Detectron2, which calls ``load`` for the records."""
    for split in SPLITS:
        load = partial(lambda files, name: load_records(*files), _files(split))
        class_of = {index: index for index in range(len(CLASSES))}
        register_set(f"csv_{split}", CLASSES, class_of, load)


def _files(split: str) -> tuple[Path, Path]:
    """Return the paths of the CSV and of the image folder."""
    folder = shapes_folder()
    return folder.parent / "csv_shapes" / f"{split}.csv", folder / split


def write_csv() -> None:
    """Make the CSVs of this example from the shapes data set, which is generated if missing."""
    for split in SPLITS:
        content = json.loads((prepare_shapes() / f"annotations/instances_{split}.json").read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        labels = {category["id"]: category["name"] for category in content["categories"]}
        csv_file, _ = _files(split)
        csv_file.parent.mkdir(exist_ok=True)
        with csv_file.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(FIELDS)
            for entry in content["annotations"]:
                if entry["iscrowd"]:
                    continue  # the CSV has no column for crowds
                x, y, width, height = entry["bbox"]
                name, label = names[entry["image_id"]], labels[entry["category_id"]]
                writer.writerow([name, x, y, x + width, y + height, label])


if __name__ == "__main__":
    write_csv()
