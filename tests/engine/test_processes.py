"""Several processes give the same results as one process, however they are launched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.cases import shapes_environment

ROOT = Path(__file__).parents[2]
CONFIG = "configs/shapes/quick/fcos_fcos_rs.py"
OPTIONS = [
    "train.device=cpu",
    "train.max_iter=3",
    "train.eval_period=3",
    "dataloader.train.total_batch_size=4",
    "model.criterion.rank_scope=global",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return shapes_environment(tmp_path_factory, train=8, val=5)  # odd: an unequal share


def run(environment, program, folder, *args):
    command = [*program, "train_net.py", "--config-file", CONFIG, *args, *OPTIONS]
    completed = subprocess.run(
        [*command, f"train.output_dir={folder}"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    # Detectron2 causes warnings of torch that no user can fix.
    assert "Warning" not in completed.stderr
    assert completed.stdout.strip().splitlines()[-1] == str(folder)


PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_two_processes_give_the_results_of_one_process_and_of_torchrun(environment, tmp_path):
    run(environment, PYTHON, tmp_path / "two", "--num-gpus", "2")
    weights = f"train.init_checkpoint={tmp_path}/two/model_final.pth"
    run(environment, PYTHON, tmp_path / "one", "--eval-only", weights)
    run(environment, TORCHRUN, tmp_path / "torchrun")
    assert results(tmp_path / "two") == results(tmp_path / "one") == results(tmp_path / "torchrun")
