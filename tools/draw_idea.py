#!/usr/bin/env python
"""Draw the README's picture of the idea: ``python tools/draw_idea.py`` writes docs/images/idea.svg.

Text is drawn as paths and the background is part of the picture, so it looks the same in every
browser, even in dark mode. The font is large enough for a phone, where the picture is 360 pixels
wide.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "idea.svg"
INK, PAPER, LINE, BACKGROUND = "#1f2328", "#f6f8fa", "#8c959f", "#b8bfc6"
# Colors that color-blind readers can distinguish (Okabe and Ito).
AXES = {
    "Detector": ("#0072b2", "RetinaNet, FCOS\nFaster, Mask and\nCascade R-CNN"),
    "Assigner": ("#009e73", "max-IoU, FCOS\nATSS\nPAA, PAA*"),
    "Ranking loss": ("#d55e00", "AP, aLRP\nRank & Sort\nAPE, RankDetNet"),
}
# IoU of the boxes in ascending order of score; None is background.
BEFORE = [0.9, None, None, 0.5, None, None, 0.7, None]
AFTER = [None, None, None, None, None, 0.5, 0.7, 0.9]


def draw_card(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    """Draw a white card with a colored edge; its lower left corner is at (x, y)."""
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, fc="white", ec=color, lw=2)
    )


def draw_ranking(axes: Axes, y: float, label: str, overlaps: list[float | None]) -> None:
    """Draw candidates in ascending order of score, on a line at height y."""
    axes.text(0.2, y, label, fontsize=12, va="center", color=INK)
    for position, overlap in enumerate(overlaps):
        x = 1.62 + 0.58 * position
        color = BACKGROUND if overlap is None else AXES["Ranking loss"][0]
        axes.plot(x, y, "o", markersize=24, color=color)
        if overlap is not None:
            text = f"{overlap:.1f}".lstrip("0")
            axes.text(x, y - 0.01, text, ha="center", va="center", color="white", fontsize=12,
                      fontweight="bold")  # fmt: skip


def draw() -> None:
    """Draw the three axes, the criterion that joins them, and the goal of ranking."""
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "ranking_det"})
    figure = pyplot.figure(figsize=(6.2, 5.1), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 6.2), ylim=(0, 5.1))
    axes.axis("off")
    for column, (title, (color, text)) in enumerate(AXES.items()):
        x = 0.2 + 2.03 * column
        draw_card(axes, x, 3.5, 1.75, 1.4, color)
        axes.text(x + 0.875, 4.65, title, ha="center", va="center", fontsize=14, color=color,
                  fontweight="bold")  # fmt: skip
        axes.text(x + 0.875, 4.03, text, ha="center", va="center", fontsize=12, color=INK)
        if column:
            axes.text(x - 0.14, 4.2, "×", ha="center", va="center", fontsize=18, color=INK)
        arrow = {"arrowstyle": "-|>", "color": LINE, "lw": 1.5}
        axes.annotate("", (x + 0.875, 3.12), (x + 0.875, 3.5), arrowprops=arrow)
    draw_card(axes, 0.2, 2.42, 5.81, 0.7, INK)
    axes.text(3.1, 2.9, "One criterion", ha="center", va="center", fontsize=14, color=INK,
              fontweight="bold")  # fmt: skip
    axes.text(3.1, 2.61, "ranking loss + box and mask losses, balanced", ha="center", va="center",
              fontsize=12, color=INK)  # fmt: skip
    draw_ranking(axes, 1.9, "before", BEFORE)
    draw_ranking(axes, 1.22, "after", AFTER)
    arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.5}
    axes.annotate("", (6.0, 0.82), (1.35, 0.82), arrowprops=arrow)
    axes.text(0.2, 0.82, "score", fontsize=12, va="center", color=INK)
    axes.text(3.1, 0.5, "Every object's box above all background (gray),", ha="center",
              va="center", fontsize=12, color=INK)  # fmt: skip
    axes.text(3.1, 0.22, "with Rank & Sort also in the order of IoU (numbers).", ha="center",
              va="center", fontsize=12, color=INK)  # fmt: skip
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Draw the picture, unless the command line has --help or a wrong word."""
    argparse.ArgumentParser(description="Write docs/images/idea.svg.").parse_args()
    draw()


if __name__ == "__main__":
    main()
