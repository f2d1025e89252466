"""Turn the exception that a probe raised into a diagnosis and a remedy."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from ranking_det.doctor.probes import NEW_DETECTRON2, NEW_PAIR, Finding, Remedies

_OLD = "which this old Detectron2 uses"
HINTS = {
    NEW_DETECTRON2: {
        "no attribute 'LINEAR'": f"Pillow 10 removed Image.LINEAR, {_OLD}",
        "'numpy' has no attribute '(bool|int|float|object|str)'": f"numpy 1.24 removed it, {_OLD}",
    },
    'pip install "setuptools<81"': {
        "pkg_resources": "setuptools 82 removed pkg_resources, which this Detectron2 imports",
    },
    NEW_PAIR: {
        r"torchvision::|custom C\+\+ ops": "torch and torchvision are not built for each other",
    },
    "ln -s ../../configs {place}/model_zoo/configs": {
        "not available in Model Zoo": "a Detectron2 checkout that was not built has no model zoo",
    },
    "pip install --upgrade torch torchvision pycocotools": {
        r"Numpy is not available|numpy\.dtype size changed|_ARRAY_API not found": (
            "built for another major version of numpy"
        ),
    },
    "pip uninstall -y opencv-python; pip install --force-reinstall opencv-python-headless": {
        "libGL|libgthread": "opencv-python needs desktop libraries",
    },
    "free some space": {"No space left": "the disk is full"},
}
"""Remedy -> pattern of an error message -> what the error means."""


class Check(NamedTuple):
    """One line of the report; ``status`` is ok, note, FAULT or skipped."""

    name: str
    status: str
    text: str
    remedy: str = ""


def find_package(name: str) -> str | None:
    """Return the folder or file that ``import name`` would load, or None."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # an import hook can raise anything
        return None
    if spec is None:
        return None
    return next(iter(spec.submodule_search_locations or ()), spec.origin)


def diagnose(name: str, remedies: Remedies, error: BaseException) -> Check:
    """Return the check for the exception that a probe raised."""
    if isinstance(error, Finding):
        return Check(name, error.status, error.text, error.remedy)
    package, remedy = remedies.package, remedies.broken
    message = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        missing = error.name or (re.findall(r"'([\w.]+)'", message) or [""])[0]
        if missing == package:
            return Check(name, "FAULT", f"{package} is not installed ({message})", remedies.absent)
        if not missing.startswith(f"{package}."):
            remedy = remedies.missing_dependency or remedy
    return explain(name, package, f"{type(error).__name__}: {message}", remedy)


def explain(name: str, package: str, message: str, remedy: str) -> Check:
    """Return a fault with the remedy of the first matching hint, or else the given remedy."""
    place = find_package(package)
    short_message = message if len(message) <= 300 else f"{message[:150]} ... {message[-145:]}"
    location = f" (in {place})" if place else ""
    if place and Path(place).is_dir() and not Path(place, "__init__.py").is_file():
        text = f"{place} is a folder without a package, and hides the package {package}: "
        text += short_message
        return Check(name, "FAULT", text, f"run this in another folder, or rename {place}")
    for known_remedy, meanings in HINTS.items():
        for pattern, meaning in meanings.items():
            if re.search(pattern, message):
                remedy = known_remedy.replace("{place}", str(place))
                return Check(name, "FAULT", f"{meaning}: {short_message}{location}", remedy)
    return Check(name, "FAULT", f"{short_message}{location}", remedy)
