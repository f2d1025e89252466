"""Training curves from the metrics.json of Detectron2's JSONWriter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranking_det.files import read_metrics
from ranking_det.visualization.figures import save_figure


def plot_curves(metrics: str | Path, picture: str | Path) -> None:
    """Plot losses, learning rate, overlap of the positives and AP over the iterations.

    Args:
        metrics: a metrics.json.
        picture: the PNG to write.

    Raises:
        FileNotFoundError: there is no such metrics.json.
    """
    records = read_metrics(metrics)
    names = sorted({name for record in records for name in record})
    losses = [name for name in names if name.startswith("loss_")]
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    _panel(axes[0, 0], records, {name: name for name in losses}, "losses")
    overlaps = {"mean_iou": "IoU of positives with their objects"}
    overlaps["mean_dice"] = "Dice coefficient of positives with their objects"
    _panel(axes[0, 1], records, overlaps, "localization")
    _panel(axes[1, 0], records, {"lr": "learning rate"}, "schedule")
    accuracies = {f"bbox/{name}": name for name in ("AP", "AP50", "AP75")}
    _panel(axes[1, 1], records, accuracies, "validation, box AP in percent")
    for axis in axes[1]:
        axis.set_xlabel("iteration")
    save_figure(figure, picture, 110)


def _panel(axis: Axes, records: list[dict[str, Any]], lines: dict[str, str], title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    for name, label in lines.items():
        points = [(record["iteration"], record[name]) for record in records if name in record]
        if points:
            # A run with a single evaluation has one point, which a line would not show.
            marker = "o" if len(points) < 20 else ""
            axis.plot(*zip(*points, strict=True), label=label, marker=marker)
    if axis.lines:
        axis.legend(fontsize=8)
        axis.set_ylim(bottom=0)
