"""Limit the number of files that one must open to follow a task (benchmarks/walks.py)."""

import json
import sys

import pytest

from benchmarks import walks
from benchmarks.walks import DEPTH_LIMIT, WALKS
from tests.cases import run_function


def measure(path):
    sys.argv[1:] = ["--json", str(path)]
    walks.main()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Measure in another process, without the imports and data sets of other tests."""
    path = tmp_path_factory.mktemp("walks") / "walks.json"
    result = run_function(measure, path)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_opens_no_more_files_than_its_limit(report, name):
    walk = report["walks"][name]
    assert 2 <= walk["count"] <= walk["limit"] == WALKS[name].limit, walk["files"]


def test_a_run_config_has_a_short_chain_of_imports(report):
    assert report["config_depth"]["count"] <= DEPTH_LIMIT, report["config_depth"]["chain"]
