"""Report on the detections of one or more detectors: an HTML page, its pictures and its numbers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ranking_det.analysis.result_files import ResultFiles, Results, read_truth, unmatched_images
from ranking_det.analysis.training_metrics import read_finite_metrics
from ranking_det.data.coco_json.fields import is_finite_number
from ranking_det.data.coco_json.image_files import ImageFinder, check_folder
from ranking_det.data.coco_json.reader import load_json
from ranking_det.data.coco_json.rules import id_order
from ranking_det.data.images import UnreadableImageError
from ranking_det.data.mapper import read_array
from ranking_det.evaluation.detection_analysis import analyze_detections
from ranking_det.evaluation.ground_truth import describe
from ranking_det.evaluation.matching import match
from ranking_det.evaluation.precision_recall import mean_precision
from ranking_det.evaluation.ranking_errors import (
    ImageErrors,
    choose_images,
    describe_ranking,
    image_errors,
)
from ranking_det.evaluation.score_statistics import (
    cross_fitted_calibration,
    image_halves,
    score_histogram,
    score_iou_histogram,
    score_range,
    threshold_numbers,
)
from ranking_det.files import make_folder, without_nan, write_json, write_whole
from ranking_det.path_checks import check_apart, check_no_folder, check_output_dir
from ranking_det.user_errors import UserError, listed
from ranking_det.visualization.detection_page import (
    PAIR_KINDS,
    draw_figures,
    render_page,
    training_keys,
)
from ranking_det.visualization.ranked_image import draw_ranked_image

PAGE, NUMBERS, PICTURES = "report.html", "report.json", "report_pictures"

NUM_WORST, NUM_BEST = 6, 3
"""Maximum numbers of images with the largest and with the smallest ranking errors."""


def write_detection_report(args: argparse.Namespace) -> list[str]:
    """Compare detectors in an HTML page, and write its pictures and numbers.

    Args:
        args: the arguments of ``python -m ranking_det.analysis report``.

    Returns:
        The lines to print: warnings, AP and oLRP of each detector, and the path of the page.

    Raises:
        UserError: a file or the folder cannot be used.
    """
    check_output_dir(args.output, "--output")
    check_no_folder(args.output, (PAGE, NUMBERS), "--output")
    check_output_dir(str(Path(args.output, PICTURES)), "--output")
    paths = _by_name(args.results, "--results")
    pair_files = _by_name(args.pairs, "--pairs", paths)
    pairs = {name: _read_pairs(path) for name, path in pair_files.items()}
    metric_files, keys = _by_name(args.metrics, "--metrics", paths), training_keys(args.iou_type)
    inputs = {"--ground-truth": args.ground_truth, "--images": args.images}
    for flag, files in (("--results", paths), ("--pairs", pair_files), ("--metrics", metric_files)):
        inputs |= {f"{flag} {name}=": path for name, path in files.items()}
    for folder in (args.output, str(Path(args.output, PICTURES))):
        check_apart(folder, inputs, "--output")
    training = {name: _read_training(path, keys) for name, path in metric_files.items()}
    truth = _read_truth(args.ground_truth, args.iou_type)
    finder = (
        None if args.images is None else _find_images(args.images, truth.ground_truth["images"])
    )
    files = {name: truth.read(path) for name, path in paths.items()}
    warnings = [
        line
        for name, path in paths.items()
        for line in unmatched_images(truth.ground_truth, files[name].results, path)
    ]
    numbers, errors = {}, []
    # One step for each detector and two for the drawings: each takes seconds on a large data set.
    with tqdm(total=len(files) + 2, desc="report", leave=False) as bar:
        for name, result_files in files.items():
            bar.set_description(name)
            numbers[name], of_images = _analyze(result_files)
            numbers[name]["results"] = paths[name]
            errors.append(of_images)
            bar.update()
        bar.set_description("images")
        images = _describe_images(files, errors)
        report = without_nan(
            {
                "ground_truth": args.ground_truth,
                "description": describe(truth.ground_truth),
                "rules": truth.rules,
                "iou_type": args.iou_type,
                "notes": [*truth.lines[1:], *warnings],
                "methods": numbers,
                "classes": _classes(truth.ground_truth),
                "images": images,
                "pairs": pairs,
                "training": training,
                "has_images": finder is not None,
            }
        )
        pictures = _draw_images(report["images"], finder)
        bar.update()
        bar.set_description("pictures")
        _write(report, pictures, Path(args.output))
        bar.update()
    return [*warnings, *_lines(report), str(Path(args.output, PAGE))]


def _by_name(
    entries: Sequence[str], flag: str, names: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the files by the names of the detectors.

    Args:
        entries: NAME=FILE texts.
        flag: their flag, for messages.
        names: the known detectors, by name; None to accept any name.

    Raises:
        UserError: an entry has no name or file, or its name is unknown or repeated.
    """
    paths: dict[str, str] = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not (separator and name.strip() and path):
            raise UserError(f"{flag}: expected NAME=FILE, got {entry!r}")
        if name in paths:
            raise UserError(f"{flag}: expected different names, got {name!r} twice")
        if names is not None and name not in names:
            known = listed(list(names))
            raise UserError(f"{flag}: expected a name from --results ({known}), got {name!r}")
        paths[name] = path
    return paths


def _read_pairs(path: str) -> dict[str, dict[str, float | None]]:
    """Return the ratios of reverse pairs, by head and kind.

    Raises:
        UserError: it is not a file of ``analysis pairs``.
    """
    content = load_json(path, "file of reverse pairs")
    try:
        ratios = {
            str(head): {kind: value_of(pairs) for kind, value_of in PAIR_KINDS.items()}
            for head, pairs in content["heads"].items()
        }
    except (KeyError, TypeError, AttributeError):
        ratios = {}
    values = [value for kinds in ratios.values() for value in kinds.values()]
    if not values or not all(value is None or is_finite_number(value) for value in values):
        raise UserError(f"--pairs: expected the JSON of `analysis pairs`, got {path!r}")
    return ratios


def _read_training(path: str, keys: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return iterations (``x``) and values (``y``) of metrics of a training run."""
    records = read_finite_metrics(path, lambda name: name in keys)
    series = {}
    for key in keys:
        rows = [row for row in records if key in row]
        if rows:
            series[key] = {"x": [row["iteration"] for row in rows], "y": [row[key] for row in rows]}
    return series


def _read_truth(path: str, iou_type: str) -> ResultFiles:
    truth = read_truth(path, iou_type)
    for section in ("images", "categories"):
        if not truth.ground_truth[section]:
            raise UserError(f"{path}: expected at least one entry in {section!r}, got none")
    return truth


def _find_images(folder: str, images: Sequence[dict[str, Any]]) -> ImageFinder:
    """Return the finder of the images in a folder.

    Raises:
        UserError: the folder does not exist, or has none of the images.
    """
    check_folder(folder)
    finder = ImageFinder(folder)
    if not any(finder.find(image) or finder.guess(image) for image in images):
        name = finder.places(images[0])[0]
        raise UserError(f"--images: {folder!r} has no image of the ground truth, such as {name!r}")
    return finder


def _analyze(files: ResultFiles) -> tuple[dict[str, Any], ImageErrors]:
    """Return all metrics of a detector, and the ranking errors of images."""
    content, results, evaluation = files.ground_truth, files.results, files.evaluate()
    num_images = len(content["images"])
    detections = evaluation.detections
    matches = match(detections)
    limits = score_range(detections.score)
    numbers = {
        "detections": len(results),
        **analyze_detections(evaluation, content, results, files.iou_type),
        "precision": mean_precision(evaluation.precision),
        "score_histogram": score_histogram(detections, matches, limits),
        "score_iou": score_iou_histogram(detections, matches, limits),
        "calibration": cross_fitted_calibration(detections, matches, image_halves(num_images)),
        "thresholds": threshold_numbers(detections, matches, limits, num_images),
    }
    return numbers, image_errors(detections, matches, num_images)


def _classes(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the names of the classes, in the order of their ids, and their numbers of objects."""
    categories = sorted(content["categories"], key=lambda category: id_order(category["id"]))
    counts = dict.fromkeys((category["id"] for category in categories), 0)
    for annotation in content["annotations"]:
        counts[annotation["category_id"]] += not annotation["iscrowd"]
    return [{"name": c["name"], "objects": counts[c["id"]]} for c in categories]


def _describe_images(
    files: Mapping[str, ResultFiles], errors: Sequence[ImageErrors]
) -> dict[str, list[dict[str, Any]]]:
    """Choose images and describe the ranking of each detector in them."""
    worst, best = choose_images(errors, NUM_WORST, NUM_BEST)
    images = next(iter(files.values())).ground_truth["images"]
    chosen = {images[i]["id"] for i in worst + best}
    image_results: dict[tuple[str, Any], Results] = {}
    for name, detector_files in files.items():
        for row in detector_files.results:
            if row["image_id"] in chosen:
                image_results.setdefault((name, row["image_id"]), []).append(row)

    def entry(image: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": str(image.get("file_name") or image["id"]),
            "entry": image,
            "methods": {
                name: describe_ranking(
                    each.ground_truth,
                    image_results.get((name, image["id"]), []),
                    each.iou_type,
                    image,
                    each.rules,
                )
                for name, each in files.items()
            },
        }

    return {
        "worst": [entry(images[i]) for i in worst],
        "best": [entry(images[i]) for i in best],
    }


def _draw_images(
    images: Mapping[str, Sequence[Mapping[str, Any]]], finder: ImageFinder | None
) -> dict[str, list[list[tuple[bytes, bytes]]]]:
    """Draw each image for each detector; an image that cannot be read is gray."""

    def draw(image: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
        entry, pixels = image["entry"], None
        size = entry.get("width"), entry.get("height")
        path = finder and (finder.find(entry) or finder.guess(entry))
        if path:
            try:
                pixels = read_array(path, "RGB", size if all(size) else None)
            except (UnreadableImageError, OSError):
                pass
        if not all(size):
            size = (pixels.shape[1], pixels.shape[0]) if pixels is not None else _extent(image)
        return [draw_ranked_image(pixels, size, ranking) for ranking in image["methods"].values()]

    return {key: [draw(image) for image in entries] for key, entries in images.items()}


def _extent(image: Mapping[str, Any]) -> tuple[float, float]:
    """Return the (width, height) that the boxes of an image need, if its size is unknown."""
    boxes = [
        entry["bbox"]
        for ranking in image["methods"].values()
        for entry in ranking["objects"] + ranking["false_positives"]
    ]
    return max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)


def _write(
    report: dict[str, Any],
    pictures: Mapping[str, Sequence[Sequence[tuple[bytes, bytes]]]],
    folder: Path,
) -> None:
    """Draw the figures, and write all files."""
    sections = draw_figures(report)
    jpegs = {key: [[jpeg for _, jpeg in row] for row in rows] for key, rows in pictures.items()}
    uncalibrated = [name for name, n in report["methods"].items() if n["calibration"] is None]
    page = render_page({**report, "uncalibrated": uncalibrated}, sections, jpegs)
    make_folder(folder / PICTURES)
    # Delete the pictures of an earlier report, which may have had more detectors.
    for path in (folder / PICTURES).glob("*"):
        if path.suffix in (".png", ".json") and path.is_file():
            path.unlink()
    for figure in (figure for drawn in sections.values() for figure in drawn):
        write_whole(folder / PICTURES / f"{figure.name}.png", figure.png)
        write_json(folder / PICTURES / f"{figure.name}.json", figure.numbers)
    for key, rows in pictures.items():
        for i, (row, image) in enumerate(zip(rows, report["images"][key], strict=True), start=1):
            write_json(folder / PICTURES / f"{key}_{i}.json", image)
            for j, (png, _) in enumerate(row, start=1):
                write_whole(folder / PICTURES / f"{key}_{i}_{j}.png", png)
    write_json(folder / NUMBERS, report)
    write_whole(folder / PAGE, page)


def _lines(report: Mapping[str, Any]) -> list[str]:
    """Return AP and oLRP of each detector as lines."""
    names = ("AP", "oLRP", "pooledAP")
    width = max(map(len, report["methods"]))
    lines = [f"{'':{width}} " + " ".join(f"{name:>8}" for name in names)]
    for name, numbers in report["methods"].items():
        values = (numbers["overall"][key] for key in names)
        cells = (f"{'-' if value is None else f'{value:.2f}':>8}" for value in values)
        lines.append(f"{name:{width}} {' '.join(cells)}")
    return lines
