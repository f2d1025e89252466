"""Small sets in the formats of LVIS and COCO: images of 200 x 200, objects are rectangles."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from ranking_det.evaluation.command_line import main

SIDE = 200
A, B, C, D = 3, 5, 8, 9  # ids of four categories; their classes are 0 to 3
NAMES = {A: "rare", B: "common", C: "frequent", D: "absent"}
CLASSES = {A: 0, B: 1, C: 2, D: 3}
NAME = "evaluated_in_a_test"  # a data set
BOX, FAR = [10, 10, 40, 40], [100, 100, 60, 60]
# The first is wrong by COCO's rules only.
DETECTIONS = [(2, 0, FAR, 0.9), (1, 0, BOX, 0.8), (1, 1, FAR, 0.7)]


def mask(box):
    """Compressed RLE of a box with whole numbers."""
    x, y, width, height = box
    pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    rle = mask_util.encode(pixels)
    return rle | {"counts": rle["counts"].decode()}


def ground_truth(*objects, images=2, negative=None, not_exhaustive=None):
    """Objects are (image, category, box); the lists of LVIS are given by image."""
    annotations = []
    for image, category, box, *more in objects:
        x, y, width, height = box
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
        annotation |= {"bbox": list(box), "area": width * height, "segmentation": [corners]}
        annotations.append(annotation | (more[0] if more else {}))
    return {
        "images": [
            {
                "id": i,
                "width": SIDE,
                "height": SIDE,
                "file_name": f"{i}.png",
                "neg_category_ids": (negative or {}).get(i, []),
                "not_exhaustive_category_ids": (not_exhaustive or {}).get(i, []),
            }
            for i in range(1, images + 1)
        ],
        "categories": [
            {"id": i, "name": NAMES[i], "frequency": f}
            for i, f in zip((B, A, C, D), "crff")  # not in the order of ids
        ],
        "annotations": annotations,
    }


def result(image, category, box, score):
    """Of a detection, with its box and its mask."""
    found = {"image_id": image, "category_id": category, "score": score, "bbox": list(box)}
    if all(isinstance(value, int) for value in box):
        found["segmentation"] = mask(box)
    return found


def random_set(seed, images=30, crowds=0.1):
    """Objects of all sizes in three classes, and detections near them and elsewhere."""
    rng = np.random.default_rng(seed)

    def box(high=150):
        x, y = rng.integers(0, 100, 2)
        width, height = rng.integers(4, high, 2)
        return [int(v) for v in (x, y, min(width, SIDE - x), min(height, SIDE - y))]

    objects, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7)):
            category, near = int(rng.choice([A, B, C])), box()
            crowd = {"iscrowd": 1} if rng.random() < crowds else {}
            objects.append((image, category, near, crowd))
            for _ in range(rng.integers(0, 4)):
                moved = [max(0, int(v + rng.integers(-3, 4))) for v in near[:2]]
                size = [max(1, int(v * rng.uniform(0.8, 1.2))) for v in near[2:]]
                size = [min(s, SIDE - m) for s, m in zip(size, moved)]
                # Few different scores, so that many are equal.
                found.append(result(image, category, moved + size, rng.integers(1, 20) / 20))
        found += [result(image, int(rng.choice([A, B, C, D])), box(), 0.5) for _ in range(3)]
    lists = [
        {i: [int(c) for c in NAMES if rng.random() < 0.3] for i in range(1, images + 1)}
        for _ in range(2)
    ]
    return ground_truth(*objects, images=images, negative=lists[0], not_exhaustive=lists[1]), found


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def feed(evaluator, detections, images=(1, 2), masks=False):
    """Detections are (image, class, box, score)."""
    for image in images:
        mine = [d for d in detections if d[0] == image]
        boxes = torch.tensor([d[2] for d in mine], dtype=torch.float32).reshape(-1, 4)
        found = Instances((SIDE, SIDE))
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        found.scores = torch.tensor([d[3] for d in mine], dtype=torch.float32)
        found.pred_classes = torch.tensor([d[1] for d in mine], dtype=torch.int64)
        if masks:
            found.pred_masks = torch.zeros(len(mine), SIDE, SIDE, dtype=torch.bool)
            for i, (x, y, width, height) in enumerate(d[2] for d in mine):
                found.pred_masks[i, y : y + height, x : x + width] = True
        evaluator.process([{"image_id": image}], [{"instances": found}])


def arguments(rules, files):
    return [rules, *(part for pair in files.items() for part in pair)]


def check_refused(files, message, capsys):
    output = Path(files["--output"])
    before = {path: path.read_bytes() for path in output.parent.glob("*") if path.is_file()}
    assert main(arguments("lvis", files)) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and not said.out
    assert said.err.startswith("python -m ranking_det.evaluation: error: ")
    assert message in said.err
    assert before == {path: path.read_bytes() for path in output.parent.glob("*") if path.is_file()}
    return said.err
