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
    "dataloader.train.mapper.augmentations.0.short_edge_length=64",
]
"""A run with random flips."""
DENSE, YOLACT = "configs/shapes/retinanet_atss_rs.py", "configs/shapes/quick/yolact_ce.py"
STATE = {
    DENSE: "model.criterion.balance={_target_: ranking_det.criteria.HistoryBalance, period: 3}",
    YOLACT: "model.mask_branch.max_masks=3",
}
"""A stateful balance, and masks that are chosen at random."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    # An odd number, so some batches span two epochs.
    return shapes_environment(tmp_path_factory, train=7, val=2)


def command(folder, config=DENSE):
    """Return the command to start a run, to resume it with its saved config, or to restart it."""
    if find_last(str(folder)):
        return ["--config-file", f"{folder}/config.yaml", "--resume"]
    overwrite = ["--overwrite"] if has_training(folder) else []
    options = [*overwrite, *OPTIONS, STATE[config], f"train.output_dir={folder}"]
    return ["--config-file", config, *options]


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_same(one, other):
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert one["trainer"]["hooks"]["BestCheckpoint"] == other["trainer"]["hooks"]["BestCheckpoint"]


def run_and_kill(folder, environment, outputs, condition, config=DENSE):
    """Start or resume a run; kill it when ``condition(folder)`` is true; return whether it ran."""
    commands = [command(folder, config)]
    process = start_function(call_main, commands, folder=outputs, environment=environment)
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


@pytest.mark.slow
def test_a_run_that_samples_masks_at_random_resumes_exactly(environment, tmp_path):
    folders = tmp_path / "whole", tmp_path / "killed"
    run_commands([command(folders[0], YOLACT)], environment=environment)
    folders[1].mkdir()

    def has_checkpoint(folder):
        return bool(find_last(str(folder)))

    assert run_and_kill(folders[1], environment, tmp_path, has_checkpoint, YOLACT)
    run_commands([command(folders[1])], environment=environment)
    assert "exactly as if it had not stopped" in (folders[1] / "log.txt").read_text()
    assert_same(*map(weights, folders))
