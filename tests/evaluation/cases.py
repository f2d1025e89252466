"""Small LVIS and COCO data sets: images of 200 x 200, objects are rectangles."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from ranking_det.data.coco_json.reader import ReadOptions, check_content
from ranking_det.evaluation.command_line import main
from ranking_det.evaluation.ground_truth import complete_for_evaluation

SIDE = 200
A, B, C, D = 3, 5, 8, 9  # the ids of four categories, of classes 0 to 3
NAMES = {A: "rare", B: "common", C: "frequent", D: "absent"}
CLASSES = {A: 0, B: 1, C: 2, D: 3}
NAME = "evaluated_in_a_test"  # of the data set
BOX, FAR = [10, 10, 40, 40], [100, 100, 60, 60]
# The first detection is a false positive by COCO's rules only.
DETECTIONS = [(2, 0, FAR, 0.9), (1, 0, BOX, 0.8), (1, 1, FAR, 0.7)]


def mask(box, cut=False):
    """Return the compressed RLE of an integer box, without its first quarter if ``cut``."""
    x, y, width, height = box
    pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    if cut:
        pixels[y : y + height // 2, x : x + width // 2] = 0
    rle = mask_util.encode(pixels)
    return rle | {"counts": rle["counts"].decode()}


def ground_truth(*objects, images=2, negative=None, not_exhaustive=None):
    """Return an LVIS JSON from objects (image, category, box) and LVIS's lists by image."""
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
            for i, f in zip((B, A, C, D), "crff")  # not sorted by id
        ],
        "annotations": annotations,
    }


def result(image, category, box, score):
    """Return the result of a detection with its box and, if the box is integer, its mask."""
    entry = {"image_id": image, "category_id": category, "score": score, "bbox": list(box)}
    if all(isinstance(value, int) for value in box):
        entry["segmentation"] = mask(box)
    return entry


def random_set(seed, images=30, crowds=0.1):
    """Return objects of all sizes in three classes, and detections near them and elsewhere.

    Every other detection lacks a quarter of its mask, so its area is not that of its box.
    """
    rng = np.random.default_rng(seed)

    def box(high=150):
        x, y = rng.integers(0, 100, 2)
        width, height = rng.integers(4, high, 2)
        return [int(v) for v in (x, y, min(width, SIDE - x), min(height, SIDE - y))]

    objects, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7)):
            category, object_box = int(rng.choice([A, B, C])), box()
            crowd = {"iscrowd": 1} if rng.random() < crowds else {}
            objects.append((image, category, object_box, crowd))
            for _ in range(rng.integers(0, 4)):
                corner = [max(0, int(v + rng.integers(-3, 4))) for v in object_box[:2]]
                size = [max(1, int(v * rng.uniform(0.8, 1.2))) for v in object_box[2:]]
                size = [min(s, SIDE - m) for s, m in zip(size, corner)]
                # Only a few distinct scores, so that many are equal.
                results.append(result(image, category, corner + size, rng.integers(1, 20) / 20))
        results += [result(image, int(rng.choice([A, B, C, D])), box(), 0.5) for _ in range(3)]
    for row in results[::2]:
        row["segmentation"] = mask(row["bbox"], cut=True)
    lists = [
        {i: [int(c) for c in NAMES if rng.random() < 0.3] for i in range(1, images + 1)}
        for _ in range(2)
    ]
    content = ground_truth(*objects, images=images, negative=lists[0], not_exhaustive=lists[1])
    return content, results


def prepare(content, rules):
    """Check the content of an annotation file with its masks, and complete it."""
    checked = check_content(content, "the set", ReadOptions(masks=True, lvis=rules == "lvis"))
    return complete_for_evaluation(checked.content)


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def feed(evaluator, detections, images=(1, 2), masks=False):
    """Pass detections (image, class, box, score) to an evaluator."""
    for image in images:
        rows = [d for d in detections if d[0] == image]
        boxes = torch.tensor([d[2] for d in rows], dtype=torch.float32).reshape(-1, 4)
        instances = Instances((SIDE, SIDE))
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.scores = torch.tensor([d[3] for d in rows], dtype=torch.float32)
        instances.pred_classes = torch.tensor([d[1] for d in rows], dtype=torch.int64)
        if masks:
            instances.pred_masks = torch.zeros(len(rows), SIDE, SIDE, dtype=torch.bool)
            for i, (x, y, width, height) in enumerate(d[2] for d in rows):
                instances.pred_masks[i, y : y + height, x : x + width] = True
        evaluator.process([{"image_id": image}], [{"instances": instances}])


def arguments(rules, files):
    return [rules, *(part for pair in files.items() for part in pair)]


def check_rejected(files, message, capsys):
    """Check that the command fails with this one-line message and writes nothing; return it."""
    output = Path(files["--output"])
    before = {path: path.read_bytes() for path in output.parent.glob("*") if path.is_file()}
    assert main(arguments("lvis", files)) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and not printed.out
    assert printed.err.startswith("python -m ranking_det.evaluation: error: ")
    assert message in printed.err
    assert before == {path: path.read_bytes() for path in output.parent.glob("*") if path.is_file()}
    return printed.err
