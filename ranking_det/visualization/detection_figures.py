"""Figures that compare the detections of several detectors.

Each figure is drawn from plain values, which are stored as JSON next to it. The colors are those
of M. Okabe and K. Ito: Color Universal Design (2008). Lines also differ by their dashes and bars by
their hatches.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ranking_det.visualization.detections import PLAIN

SIZE, TALL, LARGE = (4.6, 3.7), (4.6, 4.7), (5.6, 5.2)
"""Width and height in inches. They suit a column of 370 CSS pixels, such as a narrow screen."""

DPI = 160

DASHES = ("-", "--", "-.", ":")

COUNT = FuncFormatter(lambda value, _: f"{value:,.0f}")

MAX_NAME = 24
"""Longer names are cut in legends and ticks."""

MAX_CELLS = 12
"""A confusion matrix of at most this many classes has numbers in its cells."""

MAX_CLASSES = 20
"""A confusion matrix with more classes shows only those that are confused most."""


LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9")
"""The colors of the detectors, which repeat if there are more."""

INK, GRID = "#1f2328", "#d1d9e0"

DENSITY = LinearSegmentedColormap.from_list("density", [GRID, LINES[0], INK])
"""Color map from nearly white to nearly black."""


class DetectionFigure(NamedTuple):
    """A figure with the numbers that it shows.

    Attributes:
        name: the name of its files, without extension.
        title: what it shows, which is also drawn.
        png: the picture.
        numbers: plain values for JSON.
    """

    name: str
    title: str
    png: bytes
    numbers: Any


def draw_figure(
    name: str,
    title: str,
    plot: Callable[[Axes, Any], None],
    numbers: Any,
    size: tuple[float, float] = SIZE,
) -> DetectionFigure:
    """Draw a figure.

    Args:
        name: the name of its files, without extension.
        title: what it shows.
        plot: draws numbers on axes.
        numbers: plain values; None for undefined numbers.
        size: width and height in inches.

    Returns:
        The figure.
    """
    texts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings = {
        **PLAIN,
        **dict.fromkeys(texts, INK),
        "legend.fontsize": 9,
        "grid.color": GRID,
        "axes.titlesize": 11,
        "axes.axisbelow": True,
        "lines.linewidth": 1.8,
    }
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axis = figure.subplots()
        axis.set_title(title)
        axis.grid(True, linewidth=0.6)
        plot(axis, numbers)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI)
    return DetectionFigure(name, title, content.getvalue(), numbers)


def short(name: str) -> str:
    """Cut a name that is too long for a legend.

    Args:
        name: the name of a detector or of a class.
    """
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def plot_precision_recall(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot precision against recall.

    Args:
        axis: the axes.
        numbers: maps each detector to its ``recall`` and ``precision`` in [0, 1], and its ``AP``
            in percent.
    """
    for i, (name, curve) in enumerate(numbers.items()):
        ap = "–" if curve["AP"] is None else f"{curve['AP']:.1f}"
        style = {"color": LINES[i % len(LINES)], "ls": DASHES[i % len(DASHES)]}
        axis.plot(curve["recall"], curve["precision"], label=f"{short(name)}: AP {ap}", **style)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axis)


def plot_lines(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot one line for each detector.

    Args:
        axis: the axes.
        numbers: ``x``, ``y``: labels of the axes; ``lines``: by detector, ``x`` and ``y``.
    """
    all_values = [value for line in numbers["lines"].values() for value in line["y"]]
    for i, (name, line) in enumerate(numbers["lines"].items()):
        y = [math.nan if value is None else value for value in line["y"]]
        style = {"color": LINES[i % len(LINES)], "ls": DASHES[i % len(DASHES)]}
        # A single point, such as that of a run with one evaluation, has no line.
        marker = "o" if len(y) < 20 else ""
        axis.plot(line["x"], y, label=short(name), marker=marker, ms=4, **style)
    axis.set(xlabel=numbers["x"], ylabel=numbers["y"])
    if any(value is not None for value in all_values):
        axis.set_ylim(bottom=0)
    _legend(axis)


def plot_score_histogram(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot a histogram of the scores of true and false positives.

    Args:
        axis: the axes.
        numbers: ``edges`` of B bins, ``true_positives`` and ``false_positives`` (B), and ``most``,
            the largest number of any detector.
    """
    kinds = {"true positives": (LINES[0], "-"), "false positives": (LINES[1], "--")}
    for kind, (color, dashes) in kinds.items():
        values, edges = numbers[kind.replace(" ", "_")], numbers["edges"]
        axis.stairs(values, edges, fill=True, color=color, alpha=0.25)
        axis.stairs(values, edges, label=kind, color=color, ls=dashes, lw=1.6, zorder=3)
    axis.set_yscale("symlog", linthresh=1)
    axis.yaxis.set_major_formatter(COUNT)
    axis.set(xlabel="score", ylabel="detections (log scale)", ylim=(0, 2 * max(numbers["most"], 1)))
    _legend(axis)


def _legend(axis: Axes) -> None:
    """Put the legend below the axes, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) < MAX_NAME else 1
    options = {"ncols": columns, "frameon": False, "handlelength": 2.4}
    axis.figure.legend(handles, labels, loc="outside lower center", **options)


def _transparent(color: str) -> tuple[str, float]:
    return color, 0.3


def plot_score_iou(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot a histogram of score and IoU, with the correlation coefficients.

    Args:
        axis: the axes.
        numbers: ``scores`` and ``ious``, edges of bins; ``counts``; ``most``, the largest count of
            any detector; ``pearson``, ``spearman`` and ``kendall``.
    """
    counts = np.ma.masked_equal(np.array(numbers["counts"]), 0)
    norm = LogNorm(1, max(numbers["most"], 2))
    options = {"norm": norm, "cmap": DENSITY}
    mesh = axis.pcolormesh(numbers["scores"], numbers["ious"], counts, **options)
    ticks = LogLocator(subs=(1, 2, 5))
    bar = axis.figure.colorbar(mesh, ax=axis, pad=0.01, ticks=ticks, format=COUNT)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.set_label("detections (log scale)")
    bar.outline.set_edgecolor(GRID)
    names = ("pearson", "spearman", "kendall")
    values = ("–" if numbers[name] is None else f"{numbers[name]:.2f}" for name in names)
    text = ", ".join(f"{name.title()} {value}" for name, value in zip(names, values, strict=True))
    axis.set(xlabel=f"score\n{text}", ylabel="IoU with the object")


def plot_reliability(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot a reliability diagram: IoU or precision against score.

    Args:
        axis: the axes.
        numbers: ``y``, the label of the axis; ``lines``: by detector, ``score``, ``target`` and
            ``count`` of the bins, and its ``error``, a name and a number in percent.
    """
    axis.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (1, 3)), label="calibrated")
    for i, (name, line) in enumerate(numbers["lines"].items()):
        count = np.array(line["count"])
        filled = np.flatnonzero(count)
        color, dashes = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
        x, y = ([line[key][j] for j in filled] for key in ("score", "target"))
        kind, value = line["error"]
        label = f"{short(name)}: {kind} {'–' if value is None else f'{value:.1f}'}"
        axis.plot(x, y, color=color, ls=dashes, lw=1.2, label=label)
        sizes = 6 + 60 * count[filled] / max(count.max(initial=0), 1)
        axis.scatter(x, y, s=sizes, color=color, zorder=3)
    axis.set(xlabel="mean score of a bin", ylabel=numbers["y"], xlim=(0, 1), ylim=(0, 1.02))
    _legend(axis)


def plot_bars(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot horizontal bars, one per group and detector.

    Args:
        axis: the axes.
        numbers: ``x``, the label of the axis; ``digits``, decimal places; ``groups``, names;
            ``bars``: by detector, a number or None for each group.
    """
    groups, bars = numbers["groups"], numbers["bars"]
    height = 0.8 / len(bars)
    values = [value for row in bars.values() for value in row if value is not None]
    for i, (name, row) in enumerate(bars.items()):
        y = np.arange(len(groups)) - 0.4 + height * (i + 0.5)
        color, hatch = LINES[i % len(LINES)], ("", "///", "...", "xx")[i % 4]
        widths = [0 if value is None else value for value in row]
        options = {"facecolor": _transparent(color) if hatch else color, "edgecolor": color}
        axis.barh(y, widths, height * 0.9, label=short(name), hatch=hatch, **options)
        for position, value in zip(y, row, strict=True):
            text = " undefined" if value is None else f" {value:,.{numbers['digits']}f}"
            axis.text(max(value or 0, 0), position, text, va="center", fontsize=8)
    axis.set_yticks(range(len(groups)), [group.replace(", ", ",\n") for group in groups])
    axis.set(xlabel=numbers["x"], ylim=(len(groups) - 0.5, -0.5))
    axis.set_xlim(min([0, *values]), 1.3 * max([0, *values]) or 1)
    axis.grid(False, axis="y")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    _legend(axis)


def confused_classes(matrices: Sequence[np.ndarray], count: int = MAX_CLASSES) -> list[int]:
    """Choose the classes that are confused with other classes most often.

    Args:
        matrices: (K + 1, K + 1) confusion matrices of the detectors, with the background last.
        count: maximum number of classes.

    Returns:
        Their indices, ascending.
    """
    total = np.sum(matrices, axis=0)[:-1, :-1].copy()
    np.fill_diagonal(total, 0)
    confusions = total.sum(axis=0) + total.sum(axis=1)
    return sorted(np.argsort(-confusions, kind="stable")[:count].tolist())


def sum_other_classes(matrix: np.ndarray, class_indices: Sequence[int]) -> np.ndarray:
    """Sum the classes of a confusion matrix that are not chosen.

    Args:
        matrix: (K + 1, K + 1), with the background last.
        class_indices: indices of C classes.

    Returns:
        (C + 2, C + 2): the chosen classes, all others, and the background.
    """
    group = np.full(len(matrix), len(class_indices))
    group[list(class_indices)] = np.arange(len(class_indices))
    group[-1] = len(class_indices) + 1
    summed = np.zeros((len(class_indices) + 2,) * 2, matrix.dtype)
    np.add.at(summed, (group[:, None], group[None]), matrix)
    return summed


def plot_confusion(axis: Axes, numbers: Mapping[str, Any]) -> None:
    """Plot a confusion matrix, in percent of the objects of a class.

    Args:
        axis: the axes.
        numbers: ``classes``, the names with the background last; ``counts``, with the objects'
            classes as rows and the detections' classes as columns.
    """
    counts, classes = np.array(numbers["counts"]), [short(name) for name in numbers["classes"]]
    total = counts.sum(axis=1, keepdims=True)
    share = 100 * counts / np.maximum(total, 1)
    cells = np.ma.masked_where((counts == 0) | (total == 0), share)
    # Confusions are a few percent: the root makes them visible next to the diagonal.
    norm = PowerNorm(0.5, 0, 100)
    image = axis.imshow(cells, cmap=DENSITY, norm=norm, aspect="equal")
    few = len(classes) - 1 <= MAX_CELLS  # without the background
    size = 9 if few else 7
    ticks = range(len(classes))
    axis.set_xticks(ticks, classes, rotation=90, fontsize=size)
    axis.set_yticks(ticks, classes, fontsize=size)
    axis.set(xlabel="detected class", ylabel="annotated class")
    axis.grid(False)
    if few:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if share[row, column] > 10 else INK
            text = f"{share[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    bar = axis.figure.colorbar(image, ax=axis, shrink=0.7, pad=0.02)
    bar.set_label("% of the row")
    bar.outline.set_edgecolor(GRID)
