"""Generation of the shapes data set: atomic, locked, and started from the command line."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import ranking_det.data
from ranking_det.data.shapes import prepare_shapes, shapes_folder
from ranking_det.data.shapes.__main__ import main

SMALL = {"train": 3, "val": 2, "size": 64}


# The command line in a separate process. Importing Detectron2 takes seconds, so the parent package,
# which imports it to register the sets, is replaced by an empty one.
COMMAND_LINE = f"""
import sys, types
sys.modules["ranking_det.data"] = package = types.ModuleType("ranking_det.data")
package.__path__ = {ranking_det.data.__path__!r}
from ranking_det.data.shapes.__main__ import main
sys.exit(main())
"""


def start(root, train):
    command = [sys.executable, "-c", COMMAND_LINE, "--root", str(root)]
    sizes = ["--train", str(train), "--val", "2", "--size", "128", "--workers", "1"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command + sizes, stdout=pipe, stderr=pipe, text=True)


def partials(root):
    return list(root.glob(".shapes.partial-*"))


def assert_whole(folder, train, val):
    for split, count in (("train", train), ("val", val)):
        images = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        assert len(images["images"]) == count == len(list((folder / split).iterdir()))


def test_two_simultaneous_processes_generate_one_complete_set(tmp_path):
    processes = [start(tmp_path, train=40) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    states = sorted(("generated now" in text, "already there" in text) for text in outputs)
    assert states == [(0, 1), (1, 0)]
    assert_whole(tmp_path / "shapes", 40, 2)
    assert not partials(tmp_path)


def test_the_partial_set_of_a_killed_process_is_not_used_and_the_next_process_removes_it(tmp_path):
    process = start(tmp_path, train=5000)
    deadline = time.monotonic() + 50
    while len(list(tmp_path.glob(".shapes.partial-*/train/*.jpg"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(partials(tmp_path)) == 1 and not (tmp_path / "shapes").exists()
    assert_whole(prepare_shapes(tmp_path, **SMALL), 3, 2)
    assert not partials(tmp_path)


def test_a_process_that_waits_for_the_lock_deletes_no_files_of_its_holder(tmp_path):
    live = tmp_path / ".shapes.partial-1-live"
    live.mkdir()
    with (tmp_path / ".shapes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=prepare_shapes, args=(tmp_path,), kwargs=SMALL)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and live.exists() and not (tmp_path / "shapes").exists()
    waiting.join(30)
    assert_whole(tmp_path / "shapes", 3, 2)
    assert not partials(tmp_path)


def test_the_first_finished_set_is_used_and_files_of_others_stay_without_file_locks(
    tmp_path, monkeypatch
):
    def no_locks(*args):
        raise OSError("no locks available")

    def overtaken(folder, settings, workers):
        (folder / "slow").touch()
        (tmp_path / "shapes").mkdir()
        (tmp_path / "shapes" / "meta.json").write_text(meta)

    live = tmp_path / ".shapes.partial-1-live"
    live.mkdir()
    monkeypatch.setattr("fcntl.flock", no_locks)
    meta = (prepare_shapes(tmp_path / "alone", **SMALL) / "meta.json").read_text()
    monkeypatch.setattr("ranking_det.data.shapes.store.write_set", overtaken)
    folder = prepare_shapes(tmp_path, **SMALL)
    assert not (folder / "slow").exists() and partials(tmp_path) == [live]


def test_an_interrupt_while_drawing_leaves_no_files(tmp_path, monkeypatch):
    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ranking_det.data.shapes.generate.render", broken)
    with pytest.raises(KeyboardInterrupt):
        prepare_shapes(tmp_path, train=5000)
    assert not partials(tmp_path) and not (tmp_path / "shapes").exists()


def test_an_existing_set_is_reused_unless_other_settings_are_requested(tmp_path):
    folder = prepare_shapes(tmp_path, **SMALL)
    before = (folder / "meta.json").stat().st_mtime_ns
    assert prepare_shapes(tmp_path) == prepare_shapes(tmp_path, **SMALL) == folder
    assert (folder / "meta.json").stat().st_mtime_ns == before
    for name, value in (("train", 4), ("val", 3), ("size", 96), ("seed", 1)):
        old = {"seed": 0, **SMALL}[name]
        message = f"expected a set made with {name}={value}, got one made with {name}={old}; delete"
        with pytest.raises(ValueError, match=message):
            prepare_shapes(tmp_path, **{name: value})


def test_a_set_from_another_generator_version_raises_value_error(tmp_path):
    meta = prepare_shapes(tmp_path, **SMALL) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"generator": 0}))
    with pytest.raises(
        ValueError, match="made with generator=.*, got one made with generator=0; delete"
    ):
        prepare_shapes(tmp_path)


@pytest.mark.parametrize("meta", [None, "", "[]", '{"sides": 5}'])
def test_a_folder_that_another_program_made_is_neither_used_nor_changed(tmp_path, meta):
    (tmp_path / "shapes").mkdir()
    if meta is not None:
        (tmp_path / "shapes" / "meta.json").write_text(meta)
    with pytest.raises(ValueError, match="was not made by `python -m ranking_det.data.shapes`"):
        prepare_shapes(tmp_path)
    assert (tmp_path / "shapes").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 16}, "size: expected at least 32, got 16"),
        ({"size": 10**8}, "size: expected at most 8192, got 100000000"),
        ({"train": 0}, "train: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"variant": "forms"}, "variant: expected one of shapes, shapes_lvis, got 'forms'"),
    ],
)
def test_the_error_names_a_value_out_of_range(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        prepare_shapes(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_the_default_folder_comes_from_the_environment_variable(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert str(shapes_folder("shapes_lvis")) == os.path.expanduser("~/data/shapes_lvis")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert str(shapes_folder()) == "datasets/shapes"
    assert str(shapes_folder(root="/x")) == "/x/shapes"


def test_the_command_line_prints_a_one_line_error_and_exits_with_status_2(tmp_path, capsys):
    prepare_shapes(tmp_path, **SMALL)
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--size", "96"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and "size=96" in errors[0]
    assert main(["--root", ""]) == main(["--root", str(tmp_path), "--workers", "0"]) == 2
    errors = capsys.readouterr().err
    assert "root: expected a folder, got ''" in errors
    assert "workers: expected at least 1, got 0" in errors
