"""Save figures atomically."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from ranking_det.files import write_whole


def save_figure(figure: Figure, path: str | Path, dpi: int) -> None:
    """Save a figure atomically: the file contains the whole figure, or does not change.

    Args:
        figure: the figure.
        path: the file; its extension gives the format.
        dpi: resolution in pixels per inch.
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:], dpi=dpi)
    write_whole(Path(path), content.getvalue())
