"""Several processes evaluate like one, and train alike however they are launched."""

import json
import socket
import subprocess
import sys

import pytest

from tests.cases import ROOT, call_main, run_commands, start_function
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
    # The number of validation images is odd, so the processes get unequal shares.
    return shapes_environment(tmp_path_factory, train=8, val=5)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def train(folder, environment, *launcher, flags=()):
    """Run train_net.py through a launcher; return its results."""
    options = [*flags, *OPTIONS, f"train.output_dir={folder}"]
    completed = subprocess.run(
        [sys.executable, *launcher, "train_net.py", "--config-file", CONFIG, *options],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    # train_net.py must hide the torch warnings that Detectron2 triggers; users cannot fix them.
    assert "Warning" not in completed.stderr
    assert completed.stdout.strip().splitlines()[-1] == str(folder)
    return results(folder)


def test_two_processes_evaluate_like_one_and_train_alike_under_torchrun_variables(
    environment, tmp_path
):
    two = train(tmp_path / "two", environment, flags=["--num-gpus", "2"])
    weights = f"train.init_checkpoint={tmp_path}/two/model_final.pth"
    command = ["--config-file", CONFIG]
    one = [*command, "--eval-only", *OPTIONS, weights, f"train.output_dir={tmp_path}/one"]
    run_commands([one], environment=environment)
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    variables = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "0"}
    variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command += [*OPTIONS, f"train.output_dir={tmp_path}/torchrun"]
    processes = []
    for rank in "01":
        (tmp_path / rank).mkdir()
        rank_environment = environment | variables | {"RANK": rank, "LOCAL_RANK": rank}
        processes.append(
            start_function(
                call_main, [command], folder=tmp_path / rank, environment=rank_environment
            )
        )
    for process in processes:
        process.join()
    assert two == results(tmp_path / "one") == results(tmp_path / "torchrun")


@pytest.mark.slow
def test_torchrun_gives_the_results_of_two_processes(environment, tmp_path):
    two = train(tmp_path / "two", environment, flags=["--num-gpus", "2"])
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    assert train(tmp_path / "torchrun", environment, *torchrun) == two
