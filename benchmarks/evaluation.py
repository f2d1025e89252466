#!/usr/bin/env python
"""Benchmark AP and oLRP against AP alone, and the report on two detectors, for 5,000 images.

From the root of the repository: ``python -m benchmarks.evaluation GROUND_TRUTH BOX_RESULTS
MASK_RESULTS`` with the annotations of some images, such as 100 of COCO, and a detector's results
for them. Images, objects and detections are repeated until there are 5,000 images. Box results are
also measured with 100 detections per image, the number that detectors return: those of the file and
random ones with low scores. AP alone is what faster-coco-eval computes from the same content.
Measurements alternate in one process; the report runs in another one, with two result files of 100
detections per image. Writes ``benchmarks/results/evaluation_cpu.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster

from benchmarks.machine import describe_machine
from ranking_det.data.coco_json.reader import ReadOptions, check_content
from ranking_det.evaluation import detection_metrics
from ranking_det.evaluation.ground_truth import complete_for_evaluation, fill_masks

RESULT = Path(__file__).parent / "results" / "evaluation_cpu.json"
IMAGES, DETECTIONS_PER_IMAGE = 5_000, 100
ROUNDS = 5
KIB_PER_MIB = 1024

Rows = list[dict[str, Any]]


def repeat(content: dict[str, Any], results: Rows) -> tuple[dict[str, Any], Rows]:
    """Repeat images, objects and detections until there are :data:`IMAGES` images.

    Args:
        content: the content of an annotation file.
        results: the content of a result file.

    Returns:
        Both with new ids of images and annotations.
    """
    images: Rows = []
    annotations: Rows = []
    repeated: Rows = []
    while len(images) < IMAGES:
        part = content["images"][: IMAGES - len(images)]
        new_id = {image["id"]: len(images) + i for i, image in enumerate(part, start=1)}
        images += [{**image, "id": new_id[image["id"]]} for image in part]
        for rows, copies in ((content["annotations"], annotations), (results, repeated)):
            copies += [
                {**row, "image_id": new_id[row["image_id"]]}
                for row in rows
                if row["image_id"] in new_id
            ]
    annotations = [{**row, "id": i} for i, row in enumerate(annotations, start=1)]
    return {**content, "images": images, "annotations": annotations}, repeated


def add_detections(content: dict[str, Any], results: Rows, seed: int) -> Rows:
    """Return boxes with as many random ones that each image has :data:`DETECTIONS_PER_IMAGE`.

    Args:
        content: the content of an annotation file.
        results: the content of a result file with boxes.
        seed: the seed of the random boxes. Their scores are at most 0.3.
    """
    generator = random.Random(seed)
    numbers = dict.fromkeys((image["id"] for image in content["images"]), 0)
    for row in results:
        numbers[row["image_id"]] += 1
    categories = [category["id"] for category in content["categories"]]
    rows = list(results)
    for image in content["images"]:
        width, height = image["width"], image["height"]
        for _ in range(numbers[image["id"]], DETECTIONS_PER_IMAGE):
            w, h = generator.uniform(0.05, 0.6) * width, generator.uniform(0.05, 0.6) * height
            x, y = generator.uniform(0, width - w), generator.uniform(0, height - h)
            rows.append(
                {
                    "image_id": image["id"],
                    "category_id": generator.choice(categories),
                    "bbox": [round(value, 2) for value in (x, y, w, h)],
                    "score": round(0.3 * generator.random() ** 2, 4),
                }
            )
    return rows


def ap_alone(content: dict[str, Any], results: Rows, iou_type: str) -> float:
    """Compute AP with faster-coco-eval; it returns a fraction."""
    truth = COCO(content)
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def ap_and_olrp(content: dict[str, Any], results: Rows, iou_type: str) -> float:
    """Compute AP and oLRP, overall and of each class; return AP as a fraction."""
    return detection_metrics(content, results, iou_type)["AP"] / 100


def copy_rows(rows: Rows) -> Rows:
    """Return copies, because the library adds fields."""
    return [dict(row) for row in rows]


def measure(program: Callable[..., float], *args: Any) -> tuple[float, float]:
    """Return the seconds that a program takes, and its AP."""
    content, results, iou_type = args
    content = {**content, "annotations": copy_rows(content["annotations"])}
    results = copy_rows(results)
    start = time.perf_counter()
    ap = program(content, results, iou_type)
    return time.perf_counter() - start, ap


def compare(content: dict[str, Any], results: Rows, iou_type: str) -> dict[str, Any]:
    """Measure AP and oLRP against AP alone, alternating.

    Args:
        content: the content of an annotation file, complete for evaluation.
        results: the content of a result file.
        iou_type: "bbox" or "segm".

    Returns:
        Medians of the seconds and of the ratios, and all ratios.
    """
    times: dict[Callable[..., float], list[float]] = {ap_alone: [], ap_and_olrp: []}
    for _ in range(ROUNDS):
        values = []
        for program, seconds in times.items():
            duration, ap = measure(program, content, results, iou_type)
            seconds.append(duration)
            values.append(ap)
        assert abs(values[0] - values[1]) < 1e-9, values
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    return {
        "detections": len(results),
        "seconds": {
            program.__name__: round(statistics.median(seconds), 2)
            for program, seconds in times.items()
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def measure_report(content: dict[str, Any], detectors: dict[str, Rows]) -> dict[str, Any]:
    """Measure the time and the peak memory of the report on several detectors.

    Args:
        content: the content of an annotation file.
        detectors: the content of a result file by the name of its detector.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "truth.json").write_text(json.dumps(content), encoding="utf-8")
        for name, rows in detectors.items():
            (root / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        args = ["--ground-truth", str(root / "truth.json"), "--output", str(root / "report")]
        args += ["--results", *(f"{name}={root / name}.json" for name in detectors)]
        start = time.perf_counter()
        command = [sys.executable, "-m", "ranking_det.analysis", "report", *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / KIB_PER_MIB
    return {"seconds": round(seconds, 1), "peak_process_mib": round(peak)}


def main() -> None:
    """Measure; print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("ground_truth", "box_results", "mask_results"):
        parser.add_argument(name, metavar=name.upper())
    args = parser.parse_args()
    files = (args.ground_truth, args.box_results, args.mask_results)
    contents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    content, boxes = repeat(contents[0], contents[1])
    _, masks = repeat(contents[0], contents[2])
    checked = check_content(content, args.ground_truth, ReadOptions(masks=True))
    complete = complete_for_evaluation(checked.content)
    fill_masks(complete)
    detectors = {f"detector_{seed}": add_detections(content, boxes, seed) for seed in (1, 2)}
    result = {
        "machine": describe_machine("cpu"),
        "images": len(content["images"]),
        "categories": len(content["categories"]),
        "objects": len(content["annotations"]),
        "report": {"detectors": len(detectors)} | measure_report(content, detectors),
        "bbox": compare(complete, boxes, "bbox"),
        f"bbox, {DETECTIONS_PER_IMAGE} per image": compare(
            complete, detectors["detector_1"], "bbox"
        ),
        "segm": compare(complete, masks, "segm"),
    }
    text = json.dumps(result, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
