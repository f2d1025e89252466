"""Killed, hanging and lost processes and failed writes end a run with one line that says why."""

import errno
import io
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, multiprocessing
from torch.utils.data import DataLoader, Dataset

from ranking_det.engine import heartbeats, hooks, launching
from ranking_det.engine.checkpoint import RunCheckpointer, find_last
from ranking_det.engine.command import Command
from ranking_det.engine.failures import killed_by, run_failure
from ranking_det.engine.launching import note_iteration, start, watched
from ranking_det.engine.stopping import Stopped, on_signals, stop
from ranking_det.files import write_whole
from ranking_det.user_errors import RunError, UserError
from tests.cases import ROOT, call_main, run_commands, run_function, start_function
from tests.engine.cases import shapes_environment

# --- processes ---


def compute_together(command):
    """Reduce a number over all processes, again and again; name each process by a file."""
    folder = Path(command.config_file)
    with watched(1.0, lambda: "go on"):
        for iteration in itertools.count():
            if distributed.get_rank() == 0:
                note_iteration(SimpleNamespace(iter=iteration))
            distributed.all_reduce(torch.ones(1))
            if iteration == 3:
                (folder / str(distributed.get_rank())).write_text(str(os.getpid()))


def fail_in_the_second_process(command):
    if distributed.get_rank() == 1:
        raise UserError("a faulty file")
    distributed.barrier()


def end_of(work, folder, react=None, **flags):
    """Start two processes, call ``react`` with their ids, and return the exception."""
    multiprocessing.spawn = partial(multiprocessing.start_processes, start_method="fork")
    torch.cuda.is_available = lambda: False
    torch.cuda.device_count = lambda: 0
    os.cpu_count = lambda: 2

    def wait():
        paths = [Path(folder, str(rank)) for rank in (0, 1)]
        while not all(path.exists() and path.read_text() for path in paths):
            time.sleep(0.01)
        react(*(int(path.read_text()) for path in paths))

    if react:
        threading.Thread(target=wait, daemon=True).start()
    command = Command(config_file=str(folder), num_gpus=2, **flags)
    with on_signals(stop, signal.SIGINT, signal.SIGTERM):
        try:
            start(work, command, output_dir=str(folder))
        except (UserError, RunError, Stopped) as error:
            return type(error).__name__, str(error)


def kill_second(first, second):
    os.kill(second, signal.SIGKILL)


def crash_first(first, second):
    os.kill(first, signal.SIGSEGV)


def suspend_second(first, second):
    os.kill(second, signal.SIGSTOP)


def suspend_both(first, second):
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in (first, second):
            os.kill(process, number)
        time.sleep(2)
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(first, second):
    os.kill(os.getpid(), signal.SIGINT)


CONTINUE = "start again with --overwrite (there is no checkpoint yet)"
RUN_ENDS = {
    kill_second: (
        "RunError",
        r"worker 1 \(process \d+\) was killed by SIGKILL, probably because memory ran out; ",
    ),
    crash_first: ("RunError", r"worker 0 \(process \d+\) crashed with SIGSEGV; "),
    suspend_second: (
        "RunError",
        r"worker 1 \(process \d+ on \S+\) has not answered for 1 seconds \(train.timeout\), so it "
        "has failed, hangs, is stopped or has lost its network; end it and go on",
    ),
    suspend_both: ("Stopped", r"stopped by SIGTERM at iteration \d+; "),
    interrupt: ("Stopped", r"stopped by SIGINT at iteration \d+; "),
}


@pytest.mark.parametrize("react", RUN_ENDS)
def test_the_parent_names_the_process_that_ends_a_run(react, tmp_path):
    completed = run_function(end_of, compute_together, tmp_path, react)
    kind, message = RUN_ENDS[react]
    assert completed.value is not None, completed.stderr
    assert completed.value[0] == kind
    advice = "" if react is suspend_second else re.escape(CONTINUE)
    assert re.fullmatch(message + advice, completed.value[1])
    assert "Traceback" not in completed.stderr
    for rank in (0, 1):
        assert not Path("/proc", (tmp_path / str(rank)).read_text()).exists()


def test_an_error_of_one_process_is_reported_once_by_the_parent(tmp_path):
    completed = run_function(end_of, fail_in_the_second_process, tmp_path)
    assert completed.value == ("UserError", "a faulty file")
    assert "Traceback" not in completed.stderr


def test_a_port_in_use_gives_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "check_processes", lambda command: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        url = f"tcp://127.0.0.1:{port}"
        message = f"--dist-url: cannot open port {port} .*address already in use.*another port"
        with pytest.raises(UserError, match=message):
            start(print, Command(config_file="", num_gpus=2, dist_url=url))


def test_an_address_at_which_no_process_can_meet_is_refused(tmp_path):
    (tmp_path / "used").write_text("an earlier run")
    for path, message in {
        "/proc/none/x": "a file in a writable folder",
        str(tmp_path): "the path of a new file",
        str(tmp_path / "used"): "the path of a new file",
    }.items():
        with pytest.raises(UserError, match=f"^--dist-url: expected {message}, got 'file://{path}"):
            launching.check_processes(Command(config_file="", dist_url=f"file://{path}"))
    with pytest.raises(UserError, match="^--dist-url: expected the host name .*, got 'a.invalid'"):
        launching.check_processes(Command(config_file="", dist_url="tcp://a.invalid:1"))
    for url in (f"file://{tmp_path}/new", "tcp://127.0.0.1:1", "tcp://[::1]:1"):
        launching.check_processes(Command(config_file="", dist_url=url))


def test_a_process_that_hangs_before_its_first_heartbeat_is_named(monkeypatch):
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    late = SimpleNamespace(start=lambda: None, join=lambda: None)
    monkeypatch.setattr(heartbeats.threading, "Thread", lambda **_: late)
    with heartbeats.heartbeats(("127.0.0.1", store.port), 1, 2, 5.0, pytest.fail):
        assert store.get("heartbeat/1").decode().startswith(f"process {os.getpid()} on ")


def lost_names(fail_beside=None):
    """Watch as worker 0 of two while something happens; return whom it calls lost."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    lost = queue.Queue()
    with heartbeats.heartbeats(("127.0.0.1", store.port), 0, 2, 1.0, lost.put):
        if fail_beside is not None:
            fail_beside(store.port)
        else:
            del store
        return lost.get(timeout=30)


def end_with_an_error(port):
    with suppress(UserError), heartbeats.heartbeats(("127.0.0.1", port), 1, 2, 1.0, pytest.fail):
        time.sleep(0.3)  # until both have seen each other
        raise UserError("a wrong class")


def test_a_process_that_ends_with_an_error_is_named_after_the_time_out():
    # As on another machine, whose parent process does not end the processes of this one.
    assert lost_names(end_with_an_error).startswith(f"worker 1 (process {os.getpid()} on ")


def test_the_end_of_machine_0_is_noticed_after_the_time_out():
    assert run_function(lost_names).value.startswith("machine 0 (127.0.0.1:")


class ImagesWithKill(Dataset):
    """Images; the process that loads the third one ends."""

    def __init__(self, end):
        self.end = end

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            time.sleep(0.2)  # until the others have arrived
            self.end()
        return index


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def exit_silently():
    os._exit(3)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (kill_itself, "was killed by SIGKILL, probably because memory ran out"),
        (exit_silently, "ended without a message"),
    ],
)
def test_the_death_of_a_data_loading_process_gives_one_line(end, cause):
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(ImagesWithKill(end), batch_size=1, num_workers=1))
    failure = run_failure(caught.value, [], lambda: "go on")
    assert isinstance(failure, RunError)
    assert re.fullmatch(
        rf"a process that loads images \(process \d+\) {re.escape(cause)}; lower dataloader.train."
        r"num_workers or dataloader.test.num_workers \(0 .*\), and go on",
        str(failure),
    )


def test_unknown_signals_and_other_errors_are_not_explained():
    assert killed_by(60) == "was killed by signal 60"
    for error in (RuntimeError("shapes"), OSError("no number"), FileNotFoundError(2, "no", "/a")):
        assert run_failure(error, ["/b"], lambda: "go on") is None


@pytest.mark.parametrize("package", ["torch", "torchvision", "detectron2.engine"])
def test_a_library_that_cannot_be_imported_gives_one_line_with_a_remedy(package, tmp_path):
    for name in ("torch", "torchvision", "detectron2", "detectron2.engine"):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir()
        text = "raise OSError('libcudart.so: cannot open')" if name == package else ""
        (folder / "__init__.py").write_text(text)
    completed = subprocess.run(
        [sys.executable, "-B", "train_net.py"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    name = "Detectron2" if package == "detectron2.engine" else package
    (line,) = completed.stderr.splitlines()
    assert line.startswith(f"train_net.py: {name} cannot be imported: OSError: libcudart.so: ")
    assert "; try `pip " in line and completed.returncode == 1


# --- failed writes ---


class FullDisk:
    """Simulate a full disk: a file whose path contains ``name`` gets only its first byte."""

    def __init__(self, name, number=errno.ENOSPC):
        self.name, self.number = name, number
        self.open, self.reserve = io.open, os.posix_fallocate

    def __enter__(self):
        io.open = sys.modules["builtins"].open = self._open
        os.posix_fallocate = self._reserve

    def __exit__(self, *_):
        io.open = sys.modules["builtins"].open = self.open
        os.posix_fallocate = self.reserve

    def _error(self):
        return OSError(self.number, os.strerror(self.number))

    def _reserve(self, descriptor, *size):
        if self.name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise self._error()
        self.reserve(descriptor, *size)

    def _open(self, file, mode="r", *args, **kwargs):
        is_reading = isinstance(file, int) or not set(mode) & set("wax+")
        if is_reading or self.name not in os.fsdecode(file):
            return self.open(file, mode, *args, **kwargs)
        disk = self

        class Raw(io.FileIO):
            def write(self, content):
                super().write(memoryview(content).cast("B")[:1])
                raise disk._error()

        buffered = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", "")))
        return buffered if "b" in mode else io.TextIOWrapper(buffered, line_buffering=True)


CONFIG = "configs/shapes/quick/fcos_fcos_rs.py"
OPTIONS = [
    *("train.device=cpu", "train.max_iter=2", "train.eval_period=0", "train.log_period=1"),
    *("train.checkpointer.period=1", "dataloader.train.total_batch_size=2"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
]


def command(folder, *flags):
    return ["--config-file", CONFIG, *flags, *OPTIONS, f"train.output_dir={folder}"]


AGAIN, RESUME = ["--overwrite"], ["--resume"]
# File -> the flags of the command that writes it again in the folder of a finished run.
FLAGS_BY_FILE = {
    "config.yaml": AGAIN,
    "classes.json": AGAIN,
    "metrics.json": AGAIN,
    "model_0000000": AGAIN,
    "last_checkpoint": RESUME,
    "coco_instances_results.json": RESUME,
    "results.json.": RESUME,
    "per_class_ap.csv": RESUME,
    "curves.png": RESUME,
    "detections.png": RESUME,
    "preview/": ["--preview", "1"],
    "predictions/": ["--predict", "IMAGE"],
}
QUICK = {"config.yaml", "metrics.json", "results.json.", "curves.png", "predictions/"}


def run_on_full_disk(name, argv):
    hooks.draw_detections = lambda *args: write_whole(args[-1], b"picture")
    with FullDisk(name):
        return call_main([argv])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return shapes_environment(tmp_path_factory, train=4, val=2)


@pytest.fixture(scope="module")
def finished_run(environment, tmp_path_factory):
    """The folder of a run whose final checkpoint is missing, so that it can be resumed."""
    folder = tmp_path_factory.mktemp("full") / "run"
    for argv in (command(folder), command(folder, "--preview", "1")):
        run_commands([argv], environment=environment)
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("log.txt", ".lock", "metrics.json")
    }


def only_line(stderr):
    """Return what a command has written on stderr, without notes of libraries."""
    notes = re.compile(r".*(Warning|warnings\.warn|No CUDA runtime)|shapes |\s*$")
    (line,) = [line for line in stderr.splitlines() if not notes.match(line)]
    return line


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FLAGS_BY_FILE]
)
def test_a_full_disk_gives_one_line_and_leaves_older_files_intact(
    name, finished_run, environment, tmp_path
):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    image = str(next(Path(environment["DETECTRON2_DATASETS"]).rglob("*.jpg")))
    flags = [image if flag == "IMAGE" else flag for flag in FLAGS_BY_FILE[name]]
    completed = run_function(
        run_on_full_disk, name, command(folder, *flags), environment=environment
    )
    assert completed.value == [1], completed.stderr[-3000:]
    assert "No space left on device); free some space and " in only_line(completed.stderr)
    before, after = contents(finished_run), contents(folder)
    assert not [path for path in after if ".partial" in path]
    for path in after.keys() & before.keys():
        assert after[path] == before[path] or name not in path, path
    if flags == AGAIN:
        moved = {path.removeprefix("earlier_run/") for path in after}
        assert before.keys() <= moved


def delete_folder(folder):
    """Delete the output folder of a run after its first checkpoint."""
    save = RunCheckpointer.save

    def save_and_delete(self, *args, **kwargs):
        save(self, *args, **kwargs)
        Path(folder).rename(f"{folder}-moved")

    RunCheckpointer.save = save_and_delete
    return call_main([command(folder)])


def test_an_output_folder_that_is_deleted_ends_the_run_at_the_next_write(environment, tmp_path):
    folder = tmp_path / "run"
    completed = run_function(delete_folder, str(folder), environment=environment)
    assert completed.value == [1], completed.stderr[-3000:]
    message = f"the output folder {folder} was deleted or moved during the run; move it back or"
    assert message in only_line(completed.stderr)


# --- kills ---


def kill(process):
    """Kill a process or one of its children, and wait until all of them have ended."""
    tree = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = random.choice([process.pid, *map(int, tree)])
    os.kill(victim, signal.SIGKILL)
    process.join()
    for child in map(int, tree):
        while Path(f"/proc/{child}").exists():
            time.sleep(0.02)


def wait_for(moment, folder, process):
    """Wait for a moment of a run: the writing of a checkpoint, the last second, or any."""
    pattern = {"writing": "*.partial.pth", "end": "model_final.pth"}.get(moment)
    end = time.monotonic() + (random.uniform(0.5, 4) if pattern is None else 60)
    while process.is_alive() and time.monotonic() < end:
        if pattern and any(folder.glob(pattern)):
            time.sleep(random.uniform(0, 0.5) if moment == "end" else 0)
            return
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("seed", "processes"),
    [(0, 1), (1, 2), *(pytest.param(n, n % 2 + 1, marks=pytest.mark.slow) for n in range(2, 10))],
)
def test_a_run_that_is_killed_at_random_moments_can_be_resumed_to_its_end(
    seed, processes, environment, tmp_path
):
    random.seed(seed)
    folder, flags = tmp_path / "run", []
    several = ["--num-gpus", "2"] if processes == 2 else []
    longer = ["train.max_iter=8"]
    for moment in ("any", "writing", "end"):
        argv = [*command(folder, *several, *flags), *longer]
        process = start_function(call_main, [argv], False, folder=tmp_path, environment=environment)
        wait_for(moment, folder, process)
        if process.is_alive():
            kill(process)
        process.join()
        folder.mkdir(exist_ok=True)
        flags = RESUME if find_last(str(folder)) else AGAIN
    completed = run_commands(
        [[*command(folder, *several, *flags), *longer]], pictures=False, environment=environment
    )
    assert "Traceback" not in completed.stderr
    assert torch.load(folder / "model_final.pth", weights_only=True)["iteration"] == 7
    rows = [json.loads(line)["iteration"] for line in (folder / "metrics.json").open()]
    assert rows == sorted(set(rows))
    assert not list(folder.glob("*.partial*")) and not (folder / "earlier_run").exists()


@pytest.mark.slow
def test_memory_descriptors_and_threads_stay_the_same_over_3000_steps(environment, tmp_path):
    folder = tmp_path / "run"
    argv = command(folder)
    argv += ["train.max_iter=3000", "train.checkpointer.period=250", "train.eval_period=500"]
    process = start_function(call_main, [argv], False, folder=tmp_path, environment=environment)
    samples = []
    while process.is_alive():
        time.sleep(1)
        with suppress(OSError, TypeError):  # the process ends, or has no memory any more
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory, threads = (
                int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("VmRSS", "Threads")
            )
            descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
            samples.append((memory, threads, descriptors))
    assert process.exitcode == 0, (tmp_path / "stderr").read_text()[-3000:]
    count = len(samples)
    parts = samples[count // 4 : count // 2], samples[3 * count // 4 : count - 2]
    medians = [[statistics.median(values) for values in zip(*part)] for part in parts]
    (memory, *early), (late_memory, *late) = medians
    assert late == early
    assert late_memory < 1.05 * memory + 10_000  # kB
