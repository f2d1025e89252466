"""Figures of detections, without and with undefined numbers."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ranking_det.visualization import detection_figures as figures

CURVE = {"recall": [], "precision": [], "AP": None}
LINE = {"x": [0, 1], "y": [None, None]}
NO_BIN = {"count": [0, 0], "score": [None, None], "target": [None, None], "error": ["D-ECE", None]}
COEFFICIENTS = {"pearson": None, "spearman": None, "kendall": None}
EMPTY = {"scores": [0, 0.5, 1], "ious": [0.5, 1], "counts": [[0, 0]], "most": 0}
UNDEFINED = {
    figures.plot_precision_recall: {"a": CURVE},
    figures.plot_lines: {"x": "iteration", "y": "AP", "lines": {"a": LINE}},
    figures.plot_score_histogram: {
        **{"edges": [0, 0.5, 1], "most": 0},
        **{"true_positives": [0, 0], "false_positives": [0, 0]},
    },
    figures.plot_score_iou: EMPTY | COEFFICIENTS,
    figures.plot_reliability: {"y": "precision", "lines": {"a": NO_BIN}},
    figures.plot_bars: {"x": "AP", "digits": 1, "groups": ["g, h"], "bars": {"a": [None]}},
    figures.plot_confusion: {"classes": ["a", "background"], "counts": [[0, 0], [0, 0]]},
}


@pytest.mark.parametrize("plot", UNDEFINED, ids=lambda plot: plot.__name__)
def test_undefined_numbers_are_drawn_as_nothing(plot):
    figure = Figure(layout="constrained")
    axis = figure.subplots()
    plot(axis, UNDEFINED[plot])
    figure.draw_without_rendering()
    assert axis.get_xlabel() and (axis.get_ylabel() or plot is figures.plot_bars)


def test_bars_of_each_detector_have_their_numbers_next_to_them():
    axis = Figure().subplots()
    bars = {"a": [3.0, -1.0], "b": [None, 1234.5]}
    numbers = {"x": "AP", "digits": 1, "groups": ["one", "two"], "bars": bars}
    figures.plot_bars(axis, numbers)
    assert [bar.get_width() for bar in axis.patches] == [3, -1, 0, 1234.5]
    texts = [text.get_text().strip() for text in axis.texts]
    assert texts == ["3.0", "-1.0", "undefined", "1,234.5"]


def test_the_classes_that_are_confused_most_are_shown_and_the_others_summed():
    matrix = np.diag([50, 40, 30, 20, 7])  # the last one is the background
    matrix[0, 2] = 5
    matrix[1, 4] = 9  # a missed object is not a confusion of classes
    chosen = figures.confused_classes([matrix, matrix], count=2)
    assert chosen == [0, 2]
    summed = figures.sum_other_classes(matrix, chosen)
    assert summed.tolist() == [[50, 5, 0, 0], [0, 30, 0, 0], [0, 0, 60, 9], [0, 0, 0, 7]]


def test_long_names_are_cut():
    assert figures.short("a" * 24) == "a" * 24
    assert figures.short("a" * 25) == "a" * 23 + "…"
