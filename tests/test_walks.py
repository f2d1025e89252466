"""How many files a reader walks through, as benchmarks/walks.py counts them."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.walks import DEPTH_LIMIT, ROOT, WALKS


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """In a process of its own, whose imports and data sets are not those of other tests."""
    path = tmp_path_factory.mktemp("walks") / "walks.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.walks", "--json", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_is_short(report, name):
    walk = report["walks"][name]
    assert 2 <= walk["count"] <= walk["limit"] == WALKS[name].limit, walk["files"]


def test_a_run_config_is_not_deep(report):
    assert report["config_depth"]["count"] <= DEPTH_LIMIT, report["config_depth"]["chain"]
