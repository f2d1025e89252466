"""Run functions and commands in processes forked from a server that has done the slow imports."""

import os
import pickle
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import multiprocessing

ROOT = Path(__file__).parents[1]
# Unlike the test process, the server has no threads and no state from other tests.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "matplotlib.pyplot", "ranking_det.engine", __name__])


class Completed(NamedTuple):
    """Return value of a function, and exit status and output of its process."""

    value: Any  # None also after an exception
    returncode: int
    stdout: str
    stderr: str


def start_function(function, *args, folder, environment=None):
    """Start a process that calls a function; its output goes to the files stdout and stderr.

    Both files lie in ``folder``. The module of the function must be importable. By default, the
    process has the environment of the test.
    """
    context = dict(environment or os.environ), str(folder), multiprocessing.get_start_method()
    process = CONTEXT.Process(target=_call, args=(function, args, *context))
    process.start()
    return process


def run_function(function, *args, environment=None):
    """Call a function in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_function(function, *args, folder=folder, environment=environment)
        process.join()
        result = Path(folder, "value")
        value = pickle.loads(result.read_bytes()) if result.exists() else None
        outputs = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
        return Completed(value, process.exitcode, *outputs)


def run_workers(work, size, *args):
    """Call ``work(rank, size, *args)`` in several processes at the same time."""
    multiprocessing.start_processes(work, (size, *args), nprocs=size, start_method="forkserver")


def run_commands(commands, *, pictures=True, environment=None):
    """Run command lines one after the other in one process; each must succeed."""
    completed = run_function(call_main, commands, pictures, environment=environment)
    assert completed.value == [0] * len(commands), completed.stderr[-3000:]
    return completed


def _call(function, args, environment, folder, start_method):
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        with open(f"{folder}/{name}", "ab") as file:
            os.dup2(file.fileno(), descriptor)
    # Otherwise the data-loading workers of this process would also come from a server.
    multiprocessing.set_start_method(start_method, force=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    warnings.simplefilter("ignore")
    # Imported here, so that tests of the losses do not need Detectron2.
    from ranking_det.data import register_lvis, register_shapes

    torch.set_num_threads(1)
    register_shapes()  # in the folder of the environment
    register_lvis()
    value = function(*args)
    Path(folder, "value").write_bytes(pickle.dumps(value))


def call_main(commands, pictures=True):
    """Run command lines in this process; return their exit statuses."""
    from ranking_det.engine import hooks, main

    # The processes of a run are forked too, except with GPUs: autograd's GPU threads cannot fork.
    if not torch.cuda.is_available():
        multiprocessing.spawn = partial(multiprocessing.start_processes, start_method="fork")
    if not pictures:  # drawing takes as long as a short training run
        hooks.draw_detections = hooks.plot_curves = lambda *args: None
    return [main(command) for command in commands]
