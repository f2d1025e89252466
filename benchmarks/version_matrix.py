#!/usr/bin/env python3
"""Run the tests with the oldest and newest versions of Python, torch, NumPy and Detectron2.

From the root of the repository: ``python3 -m benchmarks.version_matrix [--rows NAME ...]``, or
``make test-matrix``. Needs the standard library only, a package index, and about 7 GB of disk per
row. Each row gets a virtual environment in ``.venv-matrix/NAME``, which the next run reuses if the
row's pins are still the same. The log of a row is ``.venv-matrix/NAME.log``.
``benchmarks/results/test_matrix.json`` is written after the last row or an interruption, because
one of the tests compares the docs with it: run ``python -m benchmarks.docs`` afterwards.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple, TextIO

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "test_matrix.json"
FOLDER = ROOT / ".venv-matrix"


class Row(NamedTuple):
    """One combination of versions. ``detectron2`` is "0.6", "main" or None (losses only)."""

    python: str
    pins: tuple[str, ...]
    detectron2: str | None


ROWS = {
    "oldest": Row("3.10", ("torch==2.10.0", "torchvision==0.25.0", "numpy==1.26.4"), "0.6"),
    "newest": Row("3.13", ("torch==2.14.1", "torchvision==0.29.1", "numpy>=2"), "0.6"),
    "main": Row("3.11", ("torch==2.14.1", "torchvision==0.29.1", "numpy>=2"), "main"),
    "losses-oldest": Row("3.10", ("torch==2.4.0", "numpy==1.26.4"), None),
}
# Folders whose tests need torch and NumPy only. Rows without Detectron2 run these; the others run
# all tests except the slow ones.
TORCH_ONLY = ("losses", "criteria", "assigners")
TORCH_ONLY_TESTS = [
    f"{folder_name}/{part}" for folder_name in ("tests", "ranking_det") for part in TORCH_ONLY
]

VERSIONS = """
import importlib, json, platform
versions = {"python": platform.python_version()}
for name in ("torch", "torchvision", "numpy", "detectron2"):
    try:
        versions[name] = importlib.import_module(name).__version__
    except ImportError:
        versions[name] = None
print(json.dumps(versions))
"""


class NotRunError(Exception):
    """Raised when a row cannot be run on this machine."""


def find_python(version: str) -> str:
    """Return the path of a Python interpreter, from ``PATH`` or pyenv's versions."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    for path in filter(None, [shutil.which(f"python{version}"), *map(str, installed)]):
        # A pyenv shim is on PATH even if its version is not selected, but then it fails.
        if subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0:
            return path
    raise NotRunError(f"Python {version} is neither on PATH nor in {pyenv}/versions")


def find_checkout(row: Row) -> str:
    """Return the path of the checkout of Detectron2's main that a row needs, or ""."""
    if row.detectron2 != "main":
        return ""
    checkout = os.environ.get("DETECTRON2_MAIN", "")
    if not (Path(checkout) / "detectron2" / "engine").is_dir():
        raise NotRunError(f"DETECTRON2_MAIN: expected a checkout of Detectron2, got {checkout!r}")
    configs = Path(checkout) / "detectron2" / "model_zoo" / "configs"
    if not configs.exists():
        configs.symlink_to("../../configs")
    return checkout


def make_environment(name: str, row: Row, env: dict[str, str], log: TextIO) -> None:
    """Create the virtual environment of a row, unless it is complete already."""
    venv, marker = FOLDER / name, FOLDER / name / "complete.json"
    if marker.exists() and marker.read_text() == json.dumps(row):
        return
    Path(env["PIP_CONSTRAINT"]).write_text("\n".join(row.pins) + "\n")
    python = str(venv / "bin" / "python")
    install = [python, "-m", "pip", "install"]
    commands = [
        [find_python(row.python), "-m", "venv", "--clear", str(venv)],
        [*install, *row.pins],
    ]
    if row.detectron2 == "0.6":
        commands.append([python, "tools/install_detectron2.py"])
    elif row.detectron2 == "main":
        command = [sys.executable, "tools/install_detectron2.py", "--requirements"]
        requirements = subprocess.check_output(command, cwd=ROOT, text=True).split()
        # Detectron2's main imports pkg_resources, which setuptools 82 removed; its ViT imports
        # timm.
        commands.append([*install, *requirements, "setuptools<81", "timm"])
    # Without Detectron2, scikit-learn is the only other package that the tests import.
    tests_only = ["-e", ".", "pytest", "pytest-xdist", "hypothesis", "scikit-learn"]
    commands.append([*install, *(["-e", ".[detectors,dev]"] if row.detectron2 else tests_only)])
    for command in commands:
        print("+", *command, file=log, flush=True)
        subprocess.run(command, check=True, stdout=log, stderr=log, env=env, cwd=ROOT)
    marker.write_text(json.dumps(row))


def count_tests(report: Path) -> dict[str, Any]:
    """Count the test results in a JUnit XML report, and name the first failures."""
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        failed = bool(kinds & {"failure", "error"})
        counts["failed" if failed else "skipped" if "skipped" in kinds else "passed"] += 1
        if failed:
            failures.append(f"{case.get('classname')}::{case.get('name')}")
    return {**counts, "failures": failures[:20]}


def run_tests(name: str, row: Row, env: dict[str, str], log: TextIO) -> dict[str, Any]:
    """Run the tests of a row in its environment; return the versions and the counts."""
    python, report = str(FOLDER / name / "bin" / "python"), FOLDER / f"{name}.xml"
    command = [python, "-c", VERSIONS]
    versions = json.loads(subprocess.check_output(command, env=env, cwd=ROOT, text=True))
    if row.detectron2 == "main":
        command = ["git", "-C", env["PYTHONPATH"], "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        versions["detectron2"] = f"main {commit}".strip()
    start = time.monotonic()
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    command += [
        "-m",
        "not slow",
        f"--junitxml={report}",
        *([] if row.detectron2 else TORCH_ONLY_TESTS),
    ]
    subprocess.run(command, stdout=log, stderr=log, env=env, cwd=ROOT)
    if not report.exists():
        raise NotRunError("pytest wrote no report")
    minutes = round((time.monotonic() - start) / 60, 1)
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"versions": versions, **count_tests(report), "date": date, "minutes": minutes}


def measure(name: str, row: Row, install_only: bool) -> dict[str, Any] | None:
    """Install and test a row; return its record, or None with ``install_only``."""
    FOLDER.mkdir(exist_ok=True)
    checkout = find_checkout(row)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"PIP_CONSTRAINT": str(FOLDER / f"{name}-pins.txt"), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": checkout} if checkout else {}
    with open(FOLDER / f"{name}.log", "w") as log:
        try:
            make_environment(name, row, env, log)
            return None if install_only else run_tests(name, row, env, log)
        except subprocess.CalledProcessError as error:
            raise NotRunError(f"this command failed: {' '.join(error.cmd)}") from error


def matrix_table() -> str:
    """Return a Markdown table with the last result of each row."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = ("python", "torch", "torchvision", "numpy", "detectron2")
    lines = [
        "| row | Python | torch | torchvision | NumPy | Detectron2 | tests | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in ROWS.items():
        record = results.get(name)
        if record is None:
            pins = dict(re.split("(?=[=>])", pin, maxsplit=1) for pin in row.pins)
            versions = {"python": row.python, "detectron2": row.detectron2}
            versions |= {key: pin.removeprefix("==") for key, pin in pins.items()}
            tests, date = "not run", ""
        else:
            versions, date = record["versions"], record["date"]
            tests = ", ".join(
                f"{record[kind]:,} {kind}"
                for kind in ("passed", "failed", "skipped")
                if record[kind] or kind == "passed"
            )
        cells = [str(versions.get(key) or "none") for key in names]
        lines.append(f"| {' | '.join([name, *cells, tests, date])} |")
    return "\n".join(lines)


def main() -> int:
    """Run the selected rows one after the other; return 1 if a test fails or a row cannot run."""
    parser = argparse.ArgumentParser(description="Run the tests with several sets of versions.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument(
        "--install-only", action="store_true", help="create the environments but run no tests"
    )
    args = parser.parse_args()
    status, records = 0, {}
    try:
        for name in args.rows:
            try:
                record = measure(name, ROWS[name], args.install_only)
            except NotRunError as error:
                print(f"{name}: not run: {error}", flush=True)
                status = 1
                continue
            if record is None:
                print(f"{name}: installed", flush=True)
                continue
            records[name] = record
            counts = ", ".join(f"{record[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
            print(f"{name}: {counts} in {record['minutes']} minutes", flush=True)
            status |= record["failed"] > 0 or record["passed"] == 0
    finally:
        if records:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps(results | records, indent=1) + "\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
