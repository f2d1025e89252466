"""HTML page that compares the detections of several detectors."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ranking_det.visualization import detection_figures as figures
from ranking_det.visualization.detection_figures import LINES, DetectionFigure, draw_figure
from ranking_det.visualization.page import data_url, render
from ranking_det.visualization.ranked_image import object_label

Report = Mapping[str, Any]

SCRIPT = Path(__file__).parent / "sort_table.js"


class Row(NamedTuple):
    """A row of the table of metrics.

    Attributes:
        label: the name of the metric.
        title: what it is, in a few words.
        key: the path to it in the numbers of a detector.
        better: 1 if larger is better, -1 if smaller is better, 0 if neither is.
        digits: decimal places.
    """

    label: str
    title: str
    key: tuple[str, ...]
    better: int = 1
    digits: int = 1


def _metric(name: str, title: str, better: int = 1) -> Row:
    return Row(name, title, ("overall", name), better)


AP_ROWS = [
    _metric("AP", "mean over IoU .50 to .95"),
    _metric("AP50", "IoU .50"),
    _metric("AP75", "IoU .75"),
    _metric("APs", "small objects"),
    _metric("APm", "medium objects"),
    _metric("APl", "large objects"),
    _metric("APr", "rare classes"),
    _metric("APc", "common classes"),
    _metric("APf", "frequent classes"),
]
RANKING_ROWS = [
    _metric("oLRP", "error at the best threshold of each class", -1),
    _metric("oLRPLoc", "part of oLRP: localization", -1),
    _metric("oLRPFP", "part of oLRP: false positives", -1),
    _metric("oLRPFN", "part of oLRP: missed objects", -1),
    _metric("pooledAP", "AP of one ranking of all classes"),
    _metric("pooledAP50", "the same at IoU .50"),
]
F1 = ("overall", "at_threshold")
CORRELATION = ("overall", "correlation")
CALIBRATION = ("calibration", "overall")
SCORE_ROWS = [
    Row("F1", "at the best threshold for all classes", (*F1, "f1"), 1, 3),
    Row("precision", "at that threshold", (*F1, "precision"), 1, 3),
    Row("recall", "at that threshold", (*F1, "recall"), 1, 3),
    Row("Pearson", "correlation of score and IoU", (*CORRELATION, "pearson"), 1, 3),
    Row("Spearman", "correlation of their ranks", (*CORRELATION, "spearman"), 1, 3),
    Row("Kendall", "pairs in the same order", (*CORRELATION, "kendall"), 1, 3),
]
CALIBRATION_ROWS = [
    Row("LaECE_0", "IoU, matched at any IoU", (*CALIBRATION, "LaECE_0"), -1),
    Row("LaACE_0", "the same without bins", (*CALIBRATION, "LaACE_0"), -1),
    Row("LaECE", "IoU, matched at IoU .50", (*CALIBRATION, "LaECE"), -1),
    Row("D-ECE", "precision at IoU .50", (*CALIBRATION, "D-ECE"), -1),
]
TABLES = {
    "AP in percent": AP_ROWS,
    "Ranking in percent": RANKING_ROWS,
    "Scores": SCORE_ROWS,
    "Calibration errors in percent": CALIBRATION_ROWS,
}
THRESHOLD_ROWS = [
    Row("LRP", "smallest LRP error", ("thresholds", "best", "lrp"), 0, 3),
    Row("F1", "highest F1", ("thresholds", "best", "f1"), 0, 3),
    Row("precision", "lowest with a precision of .9", ("thresholds", "best", "precision"), 0, 3),
    Row("largest", "largest that loses at most .1 AP", ("thresholds", "best", "largest"), 0, 3),
]
ERRORS = {
    "classification": "wrong class",
    "localization": "poor location",
    "both": "both",
    "duplicate": "duplicate",
    "background": "background",
    "missed": "missed object",
}
"""The names of the kinds of errors on the page."""

PAIR_KINDS: dict[str, Callable[[Any], Any]] = {
    "foreground–background": lambda pairs: pairs["foreground_background"]["all"]["ratio"],
    "foreground–background, mined": lambda pairs: pairs["foreground_background"]["mined"]["ratio"],
    "positive–negative": lambda pairs: pairs["positive_negative"]["all"]["ratio"],
    "positive–negative, mined": lambda pairs: pairs["positive_negative"]["mined"]["ratio"],
    "positive–positive": lambda pairs: pairs["positive_positive"]["ratio"],
}
"""The kinds of reverse pairs, and where they are in a head of the JSON of ``analysis pairs``."""

CLASS_COLUMNS = [
    Row("AP", "AP in percent", ("AP",)),
    Row("oLRP", "oLRP in percent", ("oLRP",), -1),
    Row("F1", "F1 at the best threshold for all classes", ("at_threshold", "f1"), 1, 2),
    Row("Spearman", "rank correlation of score and IoU", ("correlation", "spearman"), 1, 2),
    Row("threshold", "score with the smallest LRP error", ("threshold",), 0, 3),
]


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: the number; "–" if it is undefined.
        value: the number, to sort by; None if it is undefined.
        best: whether it is the best of the row.
    """

    text: str
    value: float | None
    best: bool


def make_cells(row: Row, numbers: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Format the numbers of the detectors and mark the best of them.

    Args:
        row: the metric.
        numbers: the numbers of each detector.

    Returns:
        A cell for each; none of them is the best if all defined numbers look equal.
    """
    values = [_value(entry, row.key) for entry in numbers]
    texts = ["–" if value is None else f"{value:,.{row.digits}f}" for value in values]
    ranked = [row.better * value for value in values if value is not None]
    best = [
        value is not None and bool(row.better) and row.better * value == max(ranked)
        for value in values
    ]
    # Numbers that look equal are equally good.
    best_texts = {text for text, is_best in zip(texts, best, strict=True) if is_best}
    differ = len({text for text, value in zip(texts, values, strict=True) if value is not None}) > 1
    marked = [differ and text in best_texts for text in texts]
    return [Cell(*cell) for cell in zip(texts, values, marked, strict=True)]


def _value(numbers: Any, key: Sequence[str]) -> float | None:
    """Return a number; None if it is undefined or not there."""
    for part in key:
        if not isinstance(numbers, Mapping) or part not in numbers:
            return None
        numbers = numbers[part]
    return numbers


def make_table(
    rows: Sequence[Row], numbers: Sequence[Mapping[str, Any]]
) -> list[tuple[Row, list[Cell]]]:
    """Make a table with a column for each detector.

    Args:
        rows: the metrics.
        numbers: the numbers of each detector.

    Returns:
        The rows with their cells, without metrics that no detector has.
    """
    cells = [(row, make_cells(row, numbers)) for row in rows]
    return [(row, line) for row, line in cells if any(cell.value is not None for cell in line)]


def draw_figures(report: Report) -> dict[str, list[DetectionFigure]]:
    """Draw the figures of the page.

    Args:
        report: the numbers, as ``python -m ranking_det.analysis report`` writes them to
            report.json.

    Returns:
        The figures by section of the page.
    """
    methods = report["methods"]
    sections = {
        "precision_recall": _precision_recall(methods),
        "scores": _scores(methods),
        "score_iou": _score_iou(methods),
        "pairs": _pairs(report["pairs"]),
        "reliability": _reliability(methods),
        "thresholds": _thresholds(methods),
        "confusion": _confusion(methods),
        "errors": _errors(methods),
        "training": _training(report["training"], report["iou_type"]),
    }
    return sections


def _precision_recall(methods: Report) -> list[DetectionFigure]:
    pictures = []
    for key, iou in (("AP50", ".50"), ("AP75", ".75")):
        title = f"Mean of the classes, IoU {iou}"
        lines = {
            name: {
                "recall": numbers["precision"]["recall"],
                "precision": numbers["precision"][key],
                "AP": numbers["overall"][key],
            }
            for name, numbers in methods.items()
        }
        pictures.append(
            draw_figure(f"precision_recall_{key}", title, figures.plot_precision_recall, lines)
        )
    lines = {
        name: {
            **{key: numbers["overall"]["curve"][key] for key in ("recall", "precision")},
            "AP": numbers["overall"]["pooledAP50"],
        }
        for name, numbers in methods.items()
    }
    title, plot = "All classes in one ranking, IoU .50", figures.plot_precision_recall
    return [*pictures, draw_figure("precision_recall_pooled", title, plot, lines)]


def _scores(methods: Report) -> list[DetectionFigure]:
    kinds = ("true_positives", "false_positives")
    histograms = {name: numbers["score_histogram"] for name, numbers in methods.items()}
    most = max(max(histogram[kind]) for histogram in histograms.values() for kind in kinds)
    return [
        draw_figure(
            f"scores_{i}",
            f"Scores of {figures.short(name)}",
            figures.plot_score_histogram,
            {"method": name, **histogram, "most": most},
        )
        for i, (name, histogram) in enumerate(histograms.items(), start=1)
    ]


def _score_iou(methods: Report) -> list[DetectionFigure]:
    most = max(np.max(numbers["score_iou"]["counts"]) for numbers in methods.values())
    return [
        draw_figure(
            f"score_iou_{i}",
            f"Score and IoU of {figures.short(name)}",
            figures.plot_score_iou,
            {
                "method": name,
                **numbers["score_iou"],
                **numbers["overall"]["correlation"],
                "most": int(most),
            },
        )
        for i, (name, numbers) in enumerate(methods.items(), start=1)
    ]


def _pairs(pairs: Report) -> list[DetectionFigure]:
    heads = dict.fromkeys(head for content in pairs.values() for head in content)
    pictures = []
    for i, head in enumerate(heads, start=1):
        of_head = {name: content[head] for name, content in pairs.items() if head in content}
        numbers = {
            "head": head,
            "x": "reverse pairs / all pairs",
            "digits": 4,
            "groups": list(PAIR_KINDS),
            "bars": {
                name: [ratios[kind] for kind in PAIR_KINDS] for name, ratios in of_head.items()
            },
        }
        title = f"Reverse pairs, {figures.short(head)}"
        size = figures.TALL
        pictures.append(draw_figure(f"reverse_pairs_{i}", title, figures.plot_bars, numbers, size))
    return pictures


def _reliability(methods: Report) -> list[DetectionFigure]:
    kinds = {
        "iou": ("IoU against score", "mean IoU (0 for a false positive)", "LaECE_0"),
        "precision": ("Precision against score, scores from .3", "precision at IoU .50", "D-ECE"),
    }
    pictures = []
    for kind, (title, label, error) in kinds.items():
        lines = {
            name: {
                **numbers["calibration"][kind],
                "error": [error, numbers["calibration"]["overall"][error]],
            }
            for name, numbers in methods.items()
            if numbers["calibration"] is not None
        }
        if lines:
            values = {"y": label, "lines": lines}
            pictures.append(
                draw_figure(f"reliability_{kind}", title, figures.plot_reliability, values)
            )
    return pictures


def _thresholds(methods: Report) -> list[DetectionFigure]:
    titles = {
        "AP": ("AP against the score threshold", "AP in percent"),
        "F1": ("F1 against the score threshold", "F1 in percent, mean of the classes"),
        "LRP": ("LRP error against the score threshold", "LRP in percent (0 is perfect)"),
        "detections": ("Detections against the score threshold", "detections per image"),
    }
    pictures = []
    for column, (title, label) in titles.items():
        lines = {
            name: {
                "x": [row["threshold"] for row in numbers["thresholds"]["rows"]],
                "y": [row[column] for row in numbers["thresholds"]["rows"]],
            }
            for name, numbers in methods.items()
        }
        values = {"x": "score threshold", "y": label, "lines": lines}
        pictures.append(draw_figure(f"thresholds_{column}", title, figures.plot_lines, values))
    return pictures


def _confusion(methods: Report) -> list[DetectionFigure]:
    matrices = [np.array(numbers["confusion_matrix"]["counts"]) for numbers in methods.values()]
    names = next(iter(methods.values()))["confusion_matrix"]["classes"]
    if len(names) - 1 > figures.MAX_CLASSES:
        class_indices = figures.confused_classes(matrices)
        matrices = [figures.sum_other_classes(matrix, class_indices) for matrix in matrices]
        names = [*(names[i] for i in class_indices), "other classes", "background"]
    pictures = []
    for i, (name, matrix) in enumerate(zip(methods, matrices, strict=True), start=1):
        values = {"method": name, "classes": names, "counts": matrix.tolist()}
        size = figures.LARGE
        title = f"Confusion matrix of {figures.short(name)}"
        pictures.append(draw_figure(f"confusion_{i}", title, figures.plot_confusion, values, size))
    return pictures


def _errors(methods: Report) -> list[DetectionFigure]:
    charts = {
        "AP": ("What the errors cost", "AP50 points lost", 2),
        "count": ("How many errors there are", "errors", 0),
    }
    pictures = []
    for key, (title, label, digits) in charts.items():
        bars = {
            name: [numbers["overall"]["errors"][kind][key] for kind in ERRORS]
            for name, numbers in methods.items()
        }
        values = {"x": label, "digits": digits, "groups": list(ERRORS.values()), "bars": bars}
        pictures.append(
            draw_figure(f"errors_{key}", title, figures.plot_bars, values, figures.TALL)
        )
    return pictures


def training_keys(iou_type: str) -> list[str]:
    """Return the metrics of a training run that are drawn.

    Args:
        iou_type: "bbox" or "segm".
    """
    return ["total_loss", f"{iou_type}/AP", "mean_iou", "lr"]


def _training(training: Report, iou_type: str) -> list[DetectionFigure]:
    titles = [
        ("Training loss", "sum of the losses"),
        ("Validation", "AP in percent"),
        ("Overlap of the positives", "mean IoU with their objects"),
        ("Learning rate", "learning rate"),
    ]
    pictures = []
    for i, (key, (title, label)) in enumerate(zip(training_keys(iou_type), titles, strict=True)):
        lines = {name: series[key] for name, series in training.items() if key in series}
        if lines:
            values = {"x": "iteration", "y": label, "lines": lines}
            pictures.append(draw_figure(f"training_{i + 1}", title, figures.plot_lines, values))
    return pictures


def frequent_confusions(numbers: Report, count: int = 8) -> list[tuple[str, str, int]]:
    """Return the most frequent confusions of two classes.

    Args:
        numbers: the numbers of a detector.
        count: maximum number.

    Returns:
        The annotated class, the detected class, and how often.
    """
    names = numbers["confusion_matrix"]["classes"]
    matrix = np.array(numbers["confusion_matrix"]["counts"])[:-1, :-1].copy()
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
    return [(names[i], names[j], int(matrix[i, j])) for i, j in pairs if matrix[i, j]]


def render_page(
    report: Report,
    sections: Mapping[str, Sequence[DetectionFigure]],
    pictures: Mapping[str, Sequence[Sequence[bytes]]],
) -> str:
    """Render the page about detections.

    Args:
        report: the numbers, as for :func:`draw_figures`.
        sections: the figures that it returned.
        pictures: the JPEG of each detector for each of the images in ``report["images"]``, by the
            same keys.

    Returns:
        The HTML. Its only script sorts the table of the classes.
    """
    methods = report["methods"]
    script = SCRIPT.read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    class_rows = [
        (
            entry,
            [
                make_cells(
                    column, [numbers["classes"][entry["name"]] for numbers in methods.values()]
                )
                for column in CLASS_COLUMNS
            ],
        )
        for entry in report["classes"]
    ]
    values = {
        **report,
        "tables": {
            title: make_table(rows, list(methods.values())) for title, rows in TABLES.items()
        },
        "threshold_rows": make_table(THRESHOLD_ROWS, list(methods.values())),
        "class_columns": CLASS_COLUMNS,
        "class_rows": class_rows,
        "sections": {
            name: [(figure.title, data_url(figure.png, "png")) for figure in drawn]
            for name, drawn in sections.items()
        },
        "pictures": {
            key: [[data_url(content, "jpeg") for content in row] for row in rows]
            for key, rows in pictures.items()
        },
        "confusions": {name: frequent_confusions(numbers) for name, numbers in methods.items()},
        "colors": LINES,
        "error_names": ERRORS,
        "letter": object_label,
        "script": script,
        "script_hash": f"sha256-{digest}",
    }
    return render("detection_page.html", values)
