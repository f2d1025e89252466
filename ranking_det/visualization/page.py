"""Render HTML pages that open offline: one file, without network access.

The pages extend ``page_frame.html``, which defines their style.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ranking_det.user_errors import percent


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render a page from a template of this folder.

    All strings are escaped, because class and file names may come from untrusted sources.

    Args:
        template: the name of the template.
        values: its variables. Templates can also use the function ``number`` and the filter
            ``percent``.

    Returns:
        The HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.globals["number"] = number
    page = environment.get_template(template).render(values)
    # File names may contain bytes that are not valid UTF-8.
    return page.encode(errors="replace").decode()


def data_url(content: bytes, image_format: str) -> str:
    """Return an image as a data URL, to embed it in a page.

    Args:
        content: the content of the image file.
        image_format: "png" or "jpeg".
    """
    return f"data:image/{image_format};base64,{base64.b64encode(content).decode()}"


def number(value: float) -> str:
    """Format an integer with thousands separators; round a float below 10 to two digits.

    Args:
        value: an integer or a float, >= 0.

    >>> [number(value) for value in (1234, 1234.5, 0.1234, 5.0)]
    ['1,234', '1,234', '0.12', '5']
    """
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
