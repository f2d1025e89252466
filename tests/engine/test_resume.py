"""A killed and resumed run gives exactly the weights of an uninterrupted run."""

import random
import signal
import time

import pytest
import torch

from ranking_det.engine.checkpoint import find_last
from ranking_det.engine.output_folder import has_training
from ranking_det.files import PARTIAL
from tests.cases import call_main, run_commands, start_function
from tests.engine.cases import shapes_environment

ITERATIONS = 12
OPTIONS = [
    "train.device=cpu",
    f"train.max_iter={ITERATIONS}",
    "train.eval_period=5",
    "train.log_period=1",
    "train.checkpointer.period=2",
    "train.checkpointer.max_to_keep=2",
    "dataloader.train.total_batch_size=2",
    "model.criterion.balance={_target_: ranking_det.criteria.HistoryBalance, period: 3}",
    "dataloader.train.mapper.augmentations.0.short_edge_length=64",
]
"""A config with a stateful balance and random flips."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    # An odd number, so some batches span two epochs.
    return shapes_environment(tmp_path_factory, train=7, val=2)


def command(folder):
    """Return the command to start a run, to resume it with its saved config, or to restart it."""
    if find_last(str(folder)):
        return ["--config-file", f"{folder}/config.yaml", "--resume"]
    config = "configs/shapes/retinanet_atss_rs.py"
    overwrite = ["--overwrite"] if has_training(folder) else []
    return ["--config-file", config, *overwrite, *OPTIONS, f"train.output_dir={folder}"]


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_same(one, other):
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert one["trainer"]["hooks"]["BestCheckpoint"] == other["trainer"]["hooks"]["BestCheckpoint"]


def run_and_kill(folder, environment, outputs, condition):
    """Start or resume a run; kill it when ``condition(folder)`` is true; return whether it ran."""
    process = start_function(call_main, [command(folder)], folder=outputs, environment=environment)
    while process.is_alive() and not condition(folder):
        time.sleep(0.002)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def is_writing_checkpoint(folder):
    """Return whether a checkpoint is being written."""
    return any(folder.glob(f"*{PARTIAL}*"))


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_commands([command(folder)], environment=environment)
    return folder


def test_a_run_killed_during_a_checkpoint_write_resumes_exactly(
    environment, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    folder.mkdir()
    killed = run_and_kill(
        folder, environment, tmp_path, lambda f: find_last(str(f)) and is_writing_checkpoint(f)
    )
    assert killed and find_last(str(folder))
    torch.load(find_last(str(folder)), weights_only=True)  # is intact
    run_commands([command(folder)], environment=environment)
    assert "exactly as if it had not stopped" in (folder / "log.txt").read_text()
    assert_same(weights(folder), weights(uninterrupted))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_at_random_moments_resumes_exactly(seed, environment, uninterrupted, tmp_path):
    folder, moments = tmp_path / "run", random.Random(seed)
    folder.mkdir()
    for _ in range(3):
        end = time.monotonic() + moments.uniform(1, 8)  # seconds
        run_and_kill(folder, environment, tmp_path, lambda _: time.monotonic() > end)  # noqa: B023
    run_commands([command(folder)], environment=environment)
    assert_same(weights(folder), weights(uninterrupted))
    results = [(f / "results.json").read_text() for f in (folder, uninterrupted)]
    assert results[0] == results[1]
