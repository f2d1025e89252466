"""The output folder: which files count as a training run, and what --overwrite does with them."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from ranking_det.engine.checkpoint import RunCheckpointer, find_resumable
from ranking_det.engine.output_folder import (
    check_no_training,
    check_not_put_aside,
    drop_rows_after,
    has_training,
    put_aside,
    remove_partial,
    where_put,
)
from ranking_det.user_errors import UserError
from tests.engine.cases import locked_by_another_process

KEY = "train.output_dir"
EARLIER_RUN = (
    *("model_0000001.pth", "model_final.pth", "model_best.pth", "last_checkpoint"),
    *("metrics.json", "config.yaml", "classes.json", "results.json", "per_class_ap.csv"),
    *(
        "curves.png",
        "detections.png",
        "coco_instances_results.json",
        "events.out.tfevents.1.pc.2.0",
    ),
    "shapes_val/coco_instances_results.json",
)
OTHER_FILES = (
    *("notes.txt", "log.txt", "model_custom.pth", "preview/0.jpg", "predictions/0.jpg"),
    "custom/coco_instances_results.json",
)


def fill(folder, names, content):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def folder_with_run(tmp_path, monkeypatch):
    """A folder with a finished run and other files of the user."""
    monkeypatch.setattr("ranking_det.engine.output_folder.DatasetCatalog", {"shapes_val": None})
    fill(tmp_path, EARLIER_RUN, "earlier")
    fill(tmp_path, OTHER_FILES, "user")
    return tmp_path


def save(folder, name="model_0000003"):
    RunCheckpointer(nn.Linear(1, 1), str(folder), extras={}).save(name, iteration=3)


@pytest.mark.parametrize(
    "names",
    [
        ("preview/0.jpg", "predictions/0.jpg", "predictions/detections.json"),
        ("log.txt", "results.json", "per_class_ap.csv", "coco_instances_results.json"),
        ("notes.txt", "model_custom.pth"),
        ("model_0000001.partial.pth",),
    ],
)
def test_files_of_previews_predictions_and_evaluations_do_not_count_as_a_run(names, tmp_path):
    fill(tmp_path, names, "")
    assert not has_training(tmp_path)
    check_no_training(str(tmp_path), KEY, resumable=False)
    put_aside(str(tmp_path))
    assert contents(tmp_path).keys() == set(names)


@pytest.mark.parametrize(
    "name",
    ["metrics.json", "last_checkpoint", "model_0000001.pth", "model_best.pth", "model_final.pth"]
    + ["earlier_run/model_final.pth", "earlier_run.partial/metrics.json"],
)
def test_each_file_of_a_training_run_counts_as_one(name, tmp_path):
    fill(tmp_path, [name], "")
    assert has_training(tmp_path)
    with pytest.raises(UserError, match="--overwrite") as caught:
        check_no_training(str(tmp_path), KEY, resumable=False)
    assert "\n" not in str(caught.value)


def test_the_error_names_the_training_process_and_its_run_cannot_be_resumed(tmp_path):
    fill(tmp_path, ["metrics.json"], "")
    with locked_by_another_process(tmp_path / ".lock", "EX") as other:
        with pytest.raises(UserError, match=rf"\(process {other.pid}\) is writing to this folder"):
            check_no_training(str(tmp_path), KEY, resumable=True)


def test_other_processes_of_the_same_command_do_not_count_as_another_run(tmp_path):
    fill(tmp_path, ["metrics.json", ".lock"], "")
    with locked_by_another_process(tmp_path / ".lock", "SH"):
        with pytest.raises(UserError, match="already has a training run"):
            check_no_training(str(tmp_path), KEY, resumable=False)


def test_an_earlier_run_is_put_aside_completely_until_the_first_checkpoint(folder_with_run):
    put_aside(str(folder_with_run))
    aside = {f"earlier_run/{name}": "earlier" for name in EARLIER_RUN}
    others = dict.fromkeys(OTHER_FILES, "user")
    assert contents(folder_with_run) == aside | others
    save(folder_with_run)
    names = {"model_0000003.pth", "last_checkpoint"} | set(OTHER_FILES)
    assert {
        str(p.relative_to(folder_with_run)) for p in folder_with_run.rglob("*") if p.is_file()
    } == names
    assert not (folder_with_run / "earlier_run").exists()


def test_writing_only_the_best_checkpoint_does_not_delete_an_earlier_run(folder_with_run):
    put_aside(str(folder_with_run))
    save(folder_with_run, "model_best")
    assert (folder_with_run / "earlier_run" / "model_final.pth").read_text() == "earlier"


def test_a_second_overwrite_replaces_only_the_new_run(folder_with_run):
    put_aside(str(folder_with_run))
    fill(folder_with_run, ["metrics.json", "config.yaml", "model_best.pth"], "new")
    before = contents(folder_with_run / "earlier_run")
    put_aside(str(folder_with_run))
    assert contents(folder_with_run / "earlier_run") == before
    assert "new" not in contents(folder_with_run).values()
    assert not list(folder_with_run.glob("*/earlier_run*"))


class Killed(BaseException):
    """An exception that no code handles, like a kill."""


@contextmanager
def killed_at(count, *, after):
    """Raise Killed at the n-th move or deletion of a file, before or after it happens."""
    calls = iter(range(count, -1, -1))

    def wrap(method):
        def call(*args, **kwargs):
            calls_left = next(calls, -1)
            if calls_left == 0 and not after:
                raise Killed
            result = method(*args, **kwargs)
            if calls_left == 0:
                raise Killed
            return result

        return call

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        for name in ("rename", "replace", "unlink", "mkdir"):
            patch.setattr(Path, name, wrap(getattr(Path, name)))
        yield


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("count", range(2 * len(EARLIER_RUN) + 1))
def test_a_kill_at_any_move_loses_nothing_and_the_next_overwrite_continues(
    count, after, folder_with_run
):
    with killed_at(count, after=after):
        put_aside(str(folder_with_run))
    files = contents(folder_with_run)
    folders = ("", "earlier_run/", "earlier_run.partial/")
    for name in EARLIER_RUN:
        assert [files[p + name] for p in folders if p + name in files] == ["earlier"], name
    if any(folder_with_run.glob("earlier_run*/*")):
        for check in (
            lambda: check_no_training(str(folder_with_run), KEY, resumable=False),
            lambda: check_not_put_aside(str(folder_with_run), KEY),
        ):
            with pytest.raises(UserError, match="was stopped before its first checkpoint"):
                check()
    init = where_put(str(folder_with_run), str(folder_with_run / "model_final.pth"))
    assert Path(init).read_text() == "earlier"
    put_aside(str(folder_with_run))
    assert all(
        (folder_with_run / "earlier_run" / name).read_text() == "earlier" for name in EARLIER_RUN
    )
    assert not (folder_with_run / "earlier_run.partial").exists()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("count", range(3))
def test_a_kill_at_the_first_checkpoint_leaves_one_run_that_can_be_resumed(
    count, after, folder_with_run
):
    put_aside(str(folder_with_run))
    with killed_at(count, after=after):
        save(folder_with_run)
    if not (folder_with_run / "model_0000003.pth").exists():
        with pytest.raises(UserError, match="was stopped before its first checkpoint"):
            check_not_put_aside(str(folder_with_run), KEY)
        return
    check_not_put_aside(str(folder_with_run), KEY)
    with pytest.raises(UserError, match="already has a training run; give --resume to continue it"):
        check_no_training(str(folder_with_run), KEY, resumable=True)
    assert find_resumable(str(folder_with_run)).path == str(folder_with_run / "model_0000003.pth")
    remove_partial(str(folder_with_run))
    assert {
        p.name for p in folder_with_run.iterdir() if p.name.startswith((".", "earlier"))
    } == set()


def test_an_incomplete_move_back_is_an_error(folder_with_run):
    put_aside(str(folder_with_run))
    (folder_with_run / "earlier_run" / "last_checkpoint").rename(
        folder_with_run / "last_checkpoint"
    )
    with pytest.raises(UserError, match="has files of an earlier run; delete it or move"):
        check_not_put_aside(str(folder_with_run), KEY)
    (folder_with_run / "last_checkpoint").rename(
        folder_with_run / "earlier_run" / "last_checkpoint"
    )
    os.utime(folder_with_run / "earlier_run" / "model_0000001.pth", (1, 1))  # older than the rest
    (folder_with_run / "earlier_run" / "model_0000001.pth").rename(
        folder_with_run / "model_0000001.pth"
    )
    with pytest.raises(UserError, match="was stopped before its first checkpoint"):
        check_not_put_aside(str(folder_with_run), KEY)


def test_a_run_that_was_moved_back_can_be_resumed(folder_with_run):
    before = contents(folder_with_run)
    put_aside(str(folder_with_run))
    for path in (folder_with_run / "earlier_run").iterdir():
        path.rename(folder_with_run / path.name)
    check_not_put_aside(str(folder_with_run), KEY)
    assert contents(folder_with_run) == before


def test_only_files_that_were_being_written_at_a_kill_are_removed(tmp_path):
    stale = ["model_0000001.partial.pth", "results.json.partial", "config.yaml.partial"]
    stale += ["metrics.json.partial", "last_checkpoint.partial", ".obsolete_run/model_final.pth"]
    others = ["notes.partial", "metrics.json", "model_0000001.pth", "preview/a.partial"]
    fill(tmp_path, [*stale, *others], "")
    remove_partial(str(tmp_path))
    assert contents(tmp_path).keys() == set(others)


def test_rows_after_the_checkpoint_and_a_truncated_row_are_removed(tmp_path):
    path = tmp_path / "metrics.json"
    rows = ['{"iteration": 0}\n', '{"iteration": 4, "a": NaN}\n', '{"iteration": 5}\n', '{"iter']
    path.write_text("".join(rows))
    drop_rows_after(path, 4)
    assert path.read_text() == "".join(rows[:2])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    drop_rows_after(tmp_path / "none.json", 4)


def test_the_latest_intact_checkpoint_is_resumed_if_the_last_is_missing_or_broken(tmp_path):
    def write(name, iteration):
        torch.save({"model": {}, "iteration": iteration}, tmp_path / f"{name}.pth")

    write("model_0000001", 1)
    write("model_0000003", 3)
    write("model_0000005.partial", 5)
    write("model_best", 7)
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    assert find_resumable(str(tmp_path)).path == str(tmp_path / "model_0000003.pth")
    (tmp_path / "model_0000005.pth").write_bytes(b"PK cut off")
    assert find_resumable(str(tmp_path)).path == str(tmp_path / "model_0000003.pth")
    write("model_0000005", 5)
    assert find_resumable(str(tmp_path)).path == str(tmp_path / "model_0000005.pth")
