"""The version matrix: rows that match setup.py, counts of results, and the table."""

import json
import re

import pytest

from benchmarks import version_matrix
from benchmarks.version_matrix import ROOT, ROWS

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_passes" />
<testcase classname="tests.a" name="test_fails"><failure message="x">x</failure></testcase>
<testcase classname="tests.b" name="test_breaks"><error message="x">x</error></testcase>
<testcase classname="tests.b" name="test_is_skipped"><skipped message="x" /></testcase>
</testsuite></testsuites>"""


def test_the_oldest_rows_have_the_minimum_versions_of_setup_py():
    text = (ROOT / "setup.py").read_text()
    losses, detectors = re.findall(r'"torch>=([\d.]+)"', text)
    python = re.search(r'python_requires=">=([\d.]+)"', text)[1]
    assert ROWS["oldest"].python == ROWS["losses-oldest"].python == python
    assert f"torch=={detectors}.0" in ROWS["oldest"].pins
    assert f"torch=={losses}.0" in ROWS["losses-oldest"].pins


def test_the_newest_row_has_the_versions_of_the_makefile():
    pins = re.search(r"^TORCH \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert set(pins.split()) <= set(ROWS["newest"].pins)


def test_failures_and_errors_are_counted_as_failed(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    assert version_matrix.count_tests(path) == {
        "passed": 1,
        "failed": 2,
        "skipped": 1,
        "failures": ["tests.a::test_fails", "tests.b::test_breaks"],
    }


def test_the_table_shows_measured_versions_and_the_pins_of_rows_that_were_not_run(
    tmp_path, monkeypatch
):
    versions = {"python": "3.10.4", "torch": "2.4.0", "torchvision": None, "numpy": "1.26.4"}
    record = {"versions": versions, "passed": 7, "failed": 0, "skipped": 2, "date": "2026-01-31"}
    path = tmp_path / "test_matrix.json"
    path.write_text(json.dumps({"losses-oldest": record}))
    monkeypatch.setattr(version_matrix, "RESULTS", path)
    lines = version_matrix.matrix_table().splitlines()
    assert len(lines) == 2 + len(ROWS)
    cells = ["losses-oldest", "3.10.4", "2.4.0", "none", "1.26.4", "none", "7 passed, 2 skipped"]
    assert lines[-1] == f"| {' | '.join(cells)} | 2026-01-31 |"
    assert lines[2] == "| oldest | 3.10 | 2.10.0 | 0.25.0 | 1.26.4 | 0.6 | not run |  |"


def test_a_row_that_cannot_run_is_reported_and_keeps_its_last_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(version_matrix, "RESULTS", tmp_path / "test_matrix.json")
    monkeypatch.setattr(version_matrix, "FOLDER", tmp_path / "environments")
    monkeypatch.setattr("sys.argv", ["version_matrix", "--rows", "main", "newest"])
    monkeypatch.delenv("DETECTRON2_MAIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    version_matrix.RESULTS.write_text('{"main": "an earlier result"}')
    assert version_matrix.main() == 1
    main, newest = capsys.readouterr().out.splitlines()
    assert main == "main: not run: DETECTRON2_MAIN: expected a checkout of Detectron2, got ''"
    assert newest.startswith("newest: not run: Python 3.13 is neither on PATH")
    assert json.loads(version_matrix.RESULTS.read_text()) == {"main": "an earlier result"}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_pin_names_a_package_and_a_version(row):
    assert all(re.fullmatch(r"\w+(==|>=)[\d.]+", pin) for pin in row.pins)
