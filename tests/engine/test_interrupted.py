"""Runs killed or stopped while writing a file, resumed after the end, repeated or overwritten."""

import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from ranking_det.engine import hooks, main
from tests.cases import ROOT, call_main, run_function
from tests.engine.cases import shapes_environment

CONFIG = "configs/shapes/retinanet_atss_rs.py"
OPTIONS = [
    *("train.device=cpu", "train.max_iter=4", "train.eval_period=3", "train.log_period=1"),
    *("train.checkpointer.period=2", "dataloader.train.total_batch_size=2"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
    "dataloader.train.mapper.augmentations.0.short_edge_length=64",
]
# The run is killed just before it renames a file to this name, after this many earlier renames.
MOMENTS = {
    "the last periodic checkpoint": ("model_0000003.pth", 0),
    "the pointer to it": ("last_checkpoint", 1),
    "the final checkpoint": ("model_final.pth", 0),
    "the pointer to the final checkpoint": ("last_checkpoint", 2),
    "the results of the last evaluation": ("results.json", 1),
    "the classes of the last evaluation": ("per_class_ap.csv", 1),
    "the best checkpoint": ("model_best.pth", 0),
}


def kill_before(name, count, number=signal.SIGKILL):
    """Signal this process just before it renames a file to ``name``, after ``count`` renames."""
    seen, replace = [], Path.replace

    def replace_or_kill(path, target):
        if Path(target).name == name:
            seen.append(name)
        if len(seen) == count + 1:
            os.kill(os.getpid(), number)
        return replace(path, target)

    Path.replace = replace_or_kill


def fill_disk_at(name):
    """Simulate a full disk when this process writes a checkpoint."""
    save = torch.save

    def save_or_fail(content, file, *args, **kwargs):
        if name not in file.name:
            return save(content, file, *args, **kwargs)
        file.write(b"a part of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    torch.save = save_or_fail


def main_until(command, kill, full):
    # Other tests look at the pictures, which take as long as the training.
    hooks.plot_curves = lambda _, path: path.write_bytes(b"")
    hooks.draw_detections = lambda *args: args[-1].write_bytes(b"")
    if kill:
        kill_before(*kill)
    if full:
        fill_disk_at(full)
    (status,) = call_main([command])
    return status


def command(folder, *flags):
    return ["--config-file", CONFIG, *flags, *OPTIONS, f"train.output_dir={folder}"]


def drive(environment, command, kill=None, full=None):
    """Run a command, optionally with a kill or a full disk at a given file; return stderr.

    A third entry of ``kill``, after the file and the count, is a signal other than SIGKILL.
    """
    completed = run_function(main_until, command, kill, full, environment=environment)
    if kill and len(kill) == 3:
        outcome = 128 + kill[2], 0
    else:
        outcome = (None, -signal.SIGKILL) if kill else (1 if full else 0, 0)
    assert completed[:2] == outcome, completed.stderr[-3000:]
    return completed.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return shapes_environment(tmp_path_factory, train=7, val=2)


@pytest.fixture(scope="module")
def runs(environment, tmp_path_factory):
    """The folders of an uninterrupted run, and of a killed and resumed run for each moment."""
    root = tmp_path_factory.mktemp("runs")
    folders = {moment: root / moment.replace(" ", "_") for moment in MOMENTS}
    drive(environment, command(root / "whole"))
    for moment, folder in folders.items():
        drive(environment, command(folder), MOMENTS[moment])
        drive(environment, command(folder, "--resume"))
    return folders | {"whole": root / "whole"}


@pytest.fixture
def finished_run(runs, tmp_path):
    """A copy of a finished run that a test may change."""
    return shutil.copytree(runs["whole"], tmp_path / "run")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def assert_same(folder, whole):
    one, other = (torch.load(f / "model_final.pth", weights_only=True) for f in (folder, whole))
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert one["iteration"] == other["iteration"] == 3
    assert one["trainer"]["iteration"] == other["trainer"]["iteration"]
    assert one["trainer"]["hooks"] == other["trainer"]["hooks"]
    for name in ("results.json", "per_class_ap.csv", "classes.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    best = [torch.load(f / "model_best.pth", weights_only=True)["best"] for f in (folder, whole)]
    assert best[0] == best[1]
    assert [r["iteration"] for r in rows(folder)] == [r["iteration"] for r in rows(whole)]
    assert rows(folder)[-1].get("bbox/AP") == rows(whole)[-1]["bbox/AP"]
    names = [{p.name for p in f.iterdir() if "tfevents" not in p.name} for f in (folder, whole)]
    assert names[0] == names[1]
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(moment, runs):
    assert_same(runs[moment], runs["whole"])


def test_a_stopped_run_says_how_to_continue_and_then_equals_an_uninterrupted_one(
    runs, environment, tmp_path
):
    folder = tmp_path / "run"
    resume = command(folder, "--resume")
    steps = [
        (command(folder), ("config.yaml", 0, signal.SIGTERM)),
        (command(folder, "--overwrite"), ("last_checkpoint", 0, signal.SIGUSR1)),
        (resume, ("model_0000003.pth", 0, signal.SIGTERM)),
        (resume, ("model_final.pth", 0, signal.SIGINT)),
        (resume, None),
    ]
    errors = "".join(drive(environment, *step) for step in steps).splitlines()
    start = "train_net.py: stopped by"
    assert [line for line in errors if line.startswith(("train_net.py", "Traceback"))] == [
        f"{start} SIGTERM",
        f"{start} SIGUSR1 at iteration 2; continue from {folder}/model_0000002.pth with --resume",
        f"{start} SIGTERM at iteration 3; continue from {folder}/model_0000002.pth with --resume",
        f"{start} SIGINT at iteration 3; continue from {folder}/model_0000003.pth with --resume",
    ]
    (folder / "model_0000002.pth").unlink()
    assert_same(folder, runs["whole"])


def test_resuming_a_finished_run_evaluates_it_again(finished_run, runs, environment):
    for name in ("results.json", "curves.png", "detections.png", "per_class_ap.csv"):
        (finished_run / name).unlink()
    drive(environment, command(finished_run, "--resume"))
    assert_same(finished_run, runs["whole"])
    assert (
        "Training is finished: evaluating its final checkpoint again"
        in (finished_run / "log.txt").read_text()
    )


def test_a_run_with_a_full_disk_at_its_final_checkpoint_can_be_resumed(runs, environment, tmp_path):
    folder = tmp_path / "run"
    drive(environment, command(folder), full="model_final")
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (folder / "curves.png").exists()
    # The evaluation after the third iteration, and none at the end.
    assert (folder / "log.txt").read_text().count("Start inference") == 1
    drive(environment, command(folder, "--resume"))
    assert_same(folder, runs["whole"])


def test_an_earlier_checkpoint_is_resumed_if_the_last_one_is_missing_or_broken(
    finished_run, runs, environment
):
    (finished_run / "model_final.pth").unlink()
    path = finished_run / "model_0000003.pth"
    path.write_bytes(path.read_bytes()[:1000])
    drive(environment, command(finished_run, "--resume"))
    assert "The last checkpoint is missing or broken" in (finished_run / "log.txt").read_text()
    assert_same(finished_run, runs["whole"])


def contents(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal_of(folder, capsys, *flags):
    """Run a command that must fail without changing the folder; return its error message."""
    before = contents(folder)
    assert main(command(folder, *flags)) == 2
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1
    assert contents(folder) == before
    return output


@pytest.fixture
def in_process(environment, monkeypatch):
    """Run commands in the process of the test, with the environment of the other commands."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DETECTRON2_DATASETS", environment["DETECTRON2_DATASETS"])


@pytest.mark.usefixtures("in_process")
def test_the_error_for_resuming_after_the_last_iteration_gives_advice(
    finished_run, capsys, monkeypatch
):
    monkeypatch.setitem(globals(), "OPTIONS", [*OPTIONS, "train.max_iter=3"])
    output = refusal_of(finished_run, capsys, "--resume")
    expected = (
        f"train.max_iter: expected at least 4, the iterations of {finished_run}/model_final.pth"
    )
    assert expected in output and "got 3" in output
    for remedy in ("raise train.max_iter", "--eval-only", "--overwrite", "train.output_dir=FOLDER"):
        assert remedy in output


@pytest.mark.usefixtures("in_process")
def test_a_run_is_not_started_in_the_folder_of_another_run(finished_run, capsys):
    output = refusal_of(finished_run, capsys)
    assert f"train.output_dir: '{finished_run}' already has a training run; give --resume" in output
    assert "--overwrite to replace it" in output and "train.output_dir=FOLDER" in output
    for path in finished_run.glob("*.pth"):
        path.unlink()
    output = refusal_of(finished_run, capsys)
    assert "--resume" not in output and "--overwrite to replace it" in output
    assert "with --overwrite" in refusal_of(finished_run, capsys, "--resume")


@pytest.mark.usefixtures("in_process")
def test_overwrite_excludes_resume_evaluation_preview_and_prediction(finished_run, capsys):
    for flag, flags in {
        "--eval-only": "--eval-only and --overwrite",
        "--resume": "--resume and --overwrite",
        "--preview=1": "--overwrite and --preview",
        "--predict=a.jpg": "--overwrite and --predict",
    }.items():
        output = refusal_of(finished_run, capsys, "--overwrite", flag)
        assert "--eval-only, --resume, --overwrite, --preview, --predict: expected at mos" in output
        assert f"got {flags}\n" in output


def test_an_overwrite_from_weights_of_the_same_folder_survives_kills(
    finished_run, runs, environment
):
    (finished_run / "notes.txt").write_text("mine")
    second_command = command(finished_run, "--overwrite")
    second_command += [f"train.init_checkpoint={finished_run}/model_final.pth", "optimizer.lr=1e-9"]
    drive(environment, second_command, ("model_0000001.pth", 0))
    moved = finished_run / "earlier_run"
    for name in ("model_final.pth", "metrics.json", "results.json", "config.yaml"):
        assert (moved / name).read_bytes() == (runs["whole"] / name).read_bytes(), name
    drive(environment, second_command)
    assert not moved.exists() and (finished_run / "notes.txt").read_text() == "mine"
    assert [r["iteration"] for r in rows(finished_run)] == [
        r["iteration"] for r in rows(runs["whole"])
    ]
    start, end = (
        torch.load(f / "model_final.pth", weights_only=True)["model"]
        for f in (runs["whole"], finished_run)
    )
    for name in start:
        if name.endswith((".weight", ".bias")):
            torch.testing.assert_close(end[name], start[name], rtol=0, atol=1e-5)


def test_an_overwrite_with_the_config_of_the_same_folder_survives_kills(
    finished_run, runs, environment
):
    second_command = ["--config-file", f"{finished_run}/config.yaml", "--overwrite"]
    second_command += [f"train.output_dir={finished_run}"]
    drive(environment, second_command, ("config.yaml", 0))
    drive(environment, second_command)
    assert not (finished_run / "earlier_run").exists()
    assert [r["iteration"] for r in rows(finished_run)] == [
        r["iteration"] for r in rows(runs["whole"])
    ]


def test_a_kill_between_the_first_checkpoint_and_its_pointer_loses_nothing(
    finished_run, runs, environment
):
    second_command = command(finished_run, "--overwrite")
    drive(environment, second_command, ("last_checkpoint", 0))
    # The state after a kill some microseconds earlier.
    shutil.copytree(runs["whole"], finished_run / "earlier_run", copy_function=shutil.copy)
    for path in (finished_run / "earlier_run").iterdir():
        os.utime(path, (1, 1))
    drive(environment, command(finished_run, "--resume"))
    assert (
        "at iteration 2, exactly as if it had not stopped" in (finished_run / "log.txt").read_text()
    )
    assert_same(finished_run, runs["whole"])


def test_an_evaluation_does_not_change_the_config_of_a_training_run(finished_run, environment):
    before = (finished_run / "config.yaml").read_bytes()
    evaluation = [*command(finished_run, "--eval-only"), "optimizer.lr=0.5"]
    drive(environment, evaluation, ("results.json", 0))
    drive(environment, evaluation)
    assert (finished_run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("flag", ["--overwrite", pytest.param("--resume", marks=pytest.mark.slow)])
def test_two_processes_can_overwrite_and_resume_a_run(flag, finished_run, runs, environment):
    (finished_run / "notes.txt").write_text("mine")
    drive(environment, ["--num-gpus", "2", *command(finished_run, flag)])
    assert not (finished_run / "earlier_run").exists()
    assert [r["iteration"] for r in rows(finished_run)] == [
        r["iteration"] for r in rows(runs["whole"])
    ]
    assert (finished_run / "notes.txt").read_text() == "mine"


def test_make_quickstart_resumes_from_a_checkpoint_and_overwrites_a_run_without_one(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)

    def last_argument(config="configs/shapes/a.py"):
        tools = ["VENV=env", "INSTALLED=", f"CONFIG={config}", "PY=echo"]
        completed = subprocess.run(
            ["make", "-s", "quickstart", *tools], cwd=tmp_path, capture_output=True, text=True
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.split()[-1]

    folder = tmp_path / "output/shapes/a"
    assert last_argument() == "configs/shapes/a.py"
    (folder / "earlier_run").mkdir(parents=True)
    assert last_argument() == "--overwrite"
    (folder / "earlier_run").rmdir()
    assert last_argument() == "configs/shapes/a.py"
    (folder / "metrics.json").write_text("")
    assert last_argument() == "--overwrite"
    (folder / "last_checkpoint").write_text("model_final.pth")
    assert last_argument() == "--resume"
    assert last_argument("configs/shapes/a.yaml") == "configs/shapes/a.yaml"
