"""Several processes: the same training and evaluation as one, and no waiting for one another."""

import json
import multiprocessing
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from ranking_det.engine.launching import _join
from ranking_det.engine.training import distribute
from tests.engine.conftest import shapes_environment
from tests.modeling.conftest import load, make_batch

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
    return shapes_environment(tmp_path_factory, train=8, val=5)  # an odd number to share


def run(environment, program, folder, *args):
    command = [*program, "train_net.py", "--config-file", CONFIG, *args, *OPTIONS]
    done = subprocess.run(
        [*command, f"train.output_dir={folder}"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == str(folder)


PYTHON = [sys.executable, "-W", "ignore"]
TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_two_processes_evaluate_as_one_does_and_torchrun_is_another_way(environment, tmp_path):
    run(environment, PYTHON, tmp_path / "two", "--num-gpus", "2")
    weights = f"train.init_checkpoint={tmp_path}/two/model_final.pth"
    run(environment, PYTHON, tmp_path / "one", "--eval-only", weights)
    run(environment, TORCHRUN, tmp_path / "torchrun")
    assert results(tmp_path / "two") == results(tmp_path / "one") == results(tmp_path / "torchrun")


def train_with_an_idle_process(rank, port, outcome, config, steps):
    """Steps in which the second process has no objects; the last images have none at all."""
    torch.set_num_threads(1)
    _join(f"tcp://127.0.0.1:{port}", rank, 2, rank, 2)
    torch.manual_seed(0)
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage

    cfg = load(config).model
    model = distribute(instantiate(cfg).train(), "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with EventStorage():
        for step in range(steps):
            count = 2 if rank == 0 and step < 0.9 * steps else 0
            losses = model(make_batch((count,), sizes=((64, 64),)))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    total = torch.stack([p.detach().double().sum() for p in model.parameters()]).sum()
    outcome.put((rank, total.item()))
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("config", "steps"),
    [("quick/fcos_fcos_rs.py", 100), ("quick/mask_rs.py", 20), ("quick/cascade_rs.py", 10)],
)
def test_a_process_whose_images_have_no_objects_hangs_nobody(config, steps):
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    workers = [
        context.Process(
            target=train_with_an_idle_process, args=(rank, port, outcome, config, steps)
        )
        for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    totals = dict(outcome.get(timeout=110) for _ in workers)
    for worker in workers:
        worker.join(10)
    assert totals[0] == totals[1]  # the same weights everywhere
