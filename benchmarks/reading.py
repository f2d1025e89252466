#!/usr/bin/env python
"""Benchmark reading a large annotation file against ``json.load`` and pycocotools' index.

From the root of the repository: ``python -m benchmarks.reading``. The file has 100,000 images and
800,000 objects, each with a box and a polygon of four points, from a fixed seed. Each measurement
is a new process, and the compared programs are interleaved, so a busy machine slows all of them.
The reader is measured twice: as the command line uses it for boxes, without looking for the image
files, and with mask checks. Writes ``benchmarks/results/reading_cpu.json``.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pycocotools.coco import COCO

from benchmarks.machine import describe_machine
from ranking_det.data.coco_json.reader import ReadOptions, read_annotations, summarize

RESULT = Path(__file__).parent / "results" / "reading_cpu.json"
IMAGES, OBJECTS, CLASSES = 100_000, 800_000, 80
WIDTH, HEIGHT = 640, 480
ROUNDS = 3
LIMIT = 1.5  # maximum time for boxes, relative to json.load and pycocotools' index
KIB_PER_MIB = 1024


def write_file(path: Path) -> None:
    """Write the annotation file.

    Args:
        path: the file.
    """
    generator = random.Random(0)
    annotations = []
    for annotation_id in range(1, OBJECTS + 1):
        x, y = round(generator.uniform(0, 500), 2), round(generator.uniform(0, 400), 2)
        width, height = round(generator.uniform(5, 140), 2), round(generator.uniform(5, 80), 2)
        right, bottom = round(x + width, 2), round(y + height, 2)
        annotations.append(
            {
                "id": annotation_id,
                "image_id": generator.randint(1, IMAGES),
                "category_id": generator.randint(1, CLASSES),
                "bbox": [x, y, width, height],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
            }
        )
    images = [
        {"id": i, "width": WIDTH, "height": HEIGHT, "file_name": f"{i:012}.jpg"}
        for i in range(1, IMAGES + 1)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content), encoding="utf-8")


def load_and_index(path: str) -> None:
    """Parse a file and index it as pycocotools does.

    Args:
        path: the file.
    """
    index = COCO()
    with open(path, encoding="utf-8") as file:
        index.dataset = json.load(file)
    index.createIndex()
    assert len(index.anns) == OBJECTS


def read(path: str, masks: bool = False) -> None:
    """Read and check a file as the command line does.

    Args:
        path: the file.
        masks: whether to check the masks.
    """
    options = ReadOptions(masks=masks)
    summary = summarize(read_annotations(path, options=options, needs_objects=True), options)
    assert summary.num_objects == OBJECTS and not summary.notes


def read_with_masks(path: str) -> None:
    """Read and check a file with its masks.

    Args:
        path: the file.
    """
    read(path, masks=True)


PROGRAMS = {
    "json.load and pycocotools' index": load_and_index,
    "reader, boxes": read,
    "reader, boxes and masks": read_with_masks,
}


def measure(name: str, path: str) -> tuple[float, float, float]:
    """Measure the time and the peak memory of a program in this process.

    Args:
        name: the key of the program.
        path: the annotation file.

    Returns:
        Its seconds, and the peak memory of the process before and after it, in MiB.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
    start = time.perf_counter()
    PROGRAMS[name](path)
    seconds = time.perf_counter() - start
    return seconds, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB


def main() -> None:
    """Measure all programs, interleaved; print and write the result."""
    context = multiprocessing.get_context("spawn")
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.json")
        # In another process, because a child's peak memory starts from its parent's.
        with context.Pool(1) as pool:
            pool.apply(write_file, (path,))
        for _ in range(ROUNDS):
            for name, measurements in runs.items():
                with context.Pool(1) as pool:
                    measurements.append(pool.apply(measure, (name, str(path))))
        size = path.stat().st_size
    reference = runs["json.load and pycocotools' index"]
    result: dict[str, object] = {
        "machine": describe_machine("cpu"),
        "images": IMAGES,
        "objects": OBJECTS,
        "file_mib": round(size / 2**20, 1),
        "limit": LIMIT,
    }
    for name, measurements in runs.items():
        ratios = [run[0] / base[0] for run, base in zip(measurements, reference, strict=True)]
        result[name] = {
            "seconds": round(statistics.median(run[0] for run in measurements), 2),
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
            "memory_mib": round(max(run[2] - run[1] for run in measurements)),
            "peak_process_mib": round(max(run[2] for run in measurements)),
        }
    text = json.dumps(result, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
