"""Several processes give the same results as one process, however they are launched."""

import json
import subprocess
import sys

import pytest

from tests.cases import ROOT, run_commands
from tests.engine.cases import shapes_environment

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


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_two_processes_give_the_results_of_one_process_and_of_torchrun(environment, tmp_path):
    folders = {name: tmp_path / name for name in ("two", "one", "torchrun")}
    weights = f"train.init_checkpoint={folders['two']}/model_final.pth"
    flags = {"two": ["--num-gpus", "2"], "one": ["--eval-only", weights], "torchrun": []}
    commands = {
        name: ["--config-file", CONFIG, *flags[name], *OPTIONS, f"train.output_dir={folder}"]
        for name, folder in folders.items()
    }
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    for name, launcher in (("two", []), ("torchrun", torchrun)):
        program = [sys.executable, *launcher, "train_net.py", *commands[name]]
        completed = subprocess.run(
            program, env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert completed.returncode == 0, completed.stderr[-3000:]
        # Detectron2 causes warnings of torch that no user can fix.
        assert "Warning" not in completed.stderr
        assert completed.stdout.strip().splitlines()[-1] == str(folders[name])
    run_commands([commands["one"]], environment=environment)
    assert results(folders["two"]) == results(folders["one"]) == results(folders["torchrun"])
