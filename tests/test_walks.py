"""Limit the number of files that a reader of a task must open (benchmarks/walks.py)."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.walks import DEPTH_LIMIT, ROOT, WALKS


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Run in a child process, so imports and data sets of other tests do not matter."""
    path = tmp_path_factory.mktemp("walks") / "walks.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.walks", "--json", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_enters_few_files(report, name):
    walk = report["walks"][name]
    assert 2 <= walk["count"] <= walk["limit"] == WALKS[name].limit, walk["files"]


def test_a_run_config_has_a_short_chain_of_imports(report):
    assert report["config_depth"]["count"] <= DEPTH_LIMIT, report["config_depth"]["chain"]
