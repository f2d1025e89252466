"""Shared cases of the data tests: a small COCO or LVIS JSON, truncated images, random damage."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from PIL import Image

from ranking_det.data.coco_json.reader import ReadOptions, read_annotations, summarize

IDS, NAMES = (5, 9, 40), ("dog", "cat", "bird")


def valid_content(lvis=False):
    """Return the content of a valid COCO or LVIS JSON.

    It has three images of 40 x 30, one of them without objects, and categories that are not sorted
    by id. The COCO JSON also has a crowd.
    """
    crowd = {"iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [0, 6, 1194]}}
    polygon = [[2, 2, 12, 2, 12, 12]]
    content = {
        "categories": [{"id": i, "name": n} for i, n in list(zip(IDS, NAMES))[::-1]],
        "images": [
            {"id": i, "width": 40, "height": 30, "file_name": f"{i}.png"} for i in (11, 12, 13)
        ],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": class_id, "bbox": bbox, **extra}
            for i, image_id, class_id, bbox, extra in [
                (1, 11, 5, [2, 2, 10, 10.5], {"segmentation": polygon}),
                (2, 11, 9, [20, 5, 20.9, 25], {"segmentation": []}),
                (3, 12, 40, [1, 1, 3, 3], {}),
                (4, 12, 5, [0, 0, 1, 6], crowd),
            ]
        ],
    }
    if lvis:
        content["annotations"].pop()  # the crowd, which LVIS does not have
        for category in content["categories"]:
            category.update(frequency="r", image_count=category["id"])
        for image in content["images"]:
            image.update(neg_category_ids=[9], not_exhaustive_category_ids=[])
            image["coco_url"] = f"http://x.org/val2017/{image.pop('file_name')}"
    return content


def write_truncated_image(path, size):
    """Write an image of (width, height) whose file lacks its last third; the header is intact."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def read_summary(path, image_root=None, **options):
    """Read an annotation file with its masks, as for training; return the summary."""
    options = ReadOptions(**({"masks": True} | options))
    return summarize(read_annotations(path, image_root, options, needs_objects=True), options)


EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(400, marks=pytest.mark.slow)])
"""Run a fuzz test on 60 examples; its slow version runs on 400."""


def fuzz(examples, check, *strategies):
    """Call ``check`` with random arguments from the Hypothesis strategies, ``examples`` times."""
    settings(max_examples=examples, deadline=None)(given(*strategies)(check))()


def perfect_detections(record):
    """Return detections with the boxes and classes of a record's objects, without its crowds."""
    objects = [a for a in record["annotations"] if not a.get("iscrowd")]
    instances = Instances((record["height"], record["width"]))
    boxes = torch.tensor([a["bbox"] for a in objects]).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    instances.scores = torch.ones(len(objects))
    instances.pred_classes = torch.tensor([a["category_id"] for a in objects])
    return instances
