"""Launch the processes of a run: one, several, or the processes that torchrun has started."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from multiprocessing import active_children

import torch
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT, _find_free_port
from detectron2.utils import comm
from torch import distributed, multiprocessing

from ranking_det.engine.command import Command
from ranking_det.engine.stopping import Stopped, on_signals
from ranking_det.user_errors import UserError

Work = Callable[[Command], int]

GRACE = 10
"""Seconds after which a child process that does not end is killed."""


def start(work: Work, command: Command) -> int:
    """Run ``work`` in every process of the command.

    Args:
        work: takes the command and returns an exit status.
        command: says how many processes to start and where. Torchrun has its own flags for this;
            under torchrun the flags of the command are ignored.

    Returns:
        0, or the exit status of a process that failed.

    Raises:
        UserError: this machine cannot run so many processes.
        Stopped: a signal has stopped the command; its processes have ended.
    """
    if distributed.is_torchelastic_launched():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        _join("env://", *(int(os.environ[name]) for name in names))
        try:
            return work(command)
        finally:
            distributed.destroy_process_group()
    check_processes(command)
    if command.num_processes == 1:
        return work(command)
    try:
        with on_signals(_send_to_children, signal.SIGUSR1):
            _launch(work, command)
    except multiprocessing.ProcessExitedException as error:
        number = -error.exit_code if error.exit_code < 0 else error.exit_code - 128
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            raise Stopped(number) from error
        return error.exit_code or 1
    except Stopped:
        _end_children()
        raise
    return 0


def check_processes(command: Command) -> None:
    """Check that this machine can run the processes of the command.

    Raises:
        UserError: there are too few GPUs or CPU cores, or a flag is out of its range.
    """
    for flag, number in (
        ("--num-gpus", command.num_gpus),
        ("--num-machines", command.num_machines),
    ):
        if number < 1:
            raise UserError(f"{flag}: expected at least 1, got {number}")
    if not 0 <= command.machine_rank < command.num_machines:
        last = command.num_machines - 1
        raise UserError(f"--machine-rank: expected 0 to {last}, got {command.machine_rank}")
    if command.num_machines > 1 and command.dist_url == "auto":
        raise UserError(
            "--dist-url: expected the address of machine 0, tcp://HOST:PORT, for several machines, "
            "got 'auto'"
        )
    if not _is_address(command.dist_url):
        raise UserError(
            "--dist-url: expected auto, tcp://HOST:PORT with a port from 1 to 65535, or "
            f"file:///PATH, got {command.dist_url!r}"
        )
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    usable = f"{gpus} usable GPUs" if gpus else f"no usable GPU and {cores} CPU cores"
    if command.num_gpus > (gpus or cores):
        raise UserError(
            f"--num-gpus: expected at most {gpus or cores}, got {command.num_gpus} (this machine "
            f"has {usable})"
        )


def _is_address(url: str) -> bool:
    tcp = re.fullmatch(r"tcp://(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\]):(\d{1,5})", url)
    if tcp:
        return 1 <= int(tcp[1]) <= 65535
    return url == "auto" or re.fullmatch(r"file:///.+", url) is not None


def _launch(work: Work, command: Command) -> None:
    """Run ``work`` in several processes, and wait for them."""
    if torch.cuda.is_available():
        place = command.num_machines, command.machine_rank, command.dist_url
        launch(_exit_with, command.num_gpus, *place, args=(work, command))
    else:
        url = command.dist_url
        url = f"tcp://127.0.0.1:{_find_free_port()}" if url == "auto" else url
        multiprocessing.spawn(_on_cpu, (url, work, command), nprocs=command.num_gpus)


def _send_to_children(number: int) -> None:
    for child in active_children():
        os.kill(child.pid or 0, number)


def _end_children() -> None:
    """End the child processes. They may hang in a collective operation, so kill them at last."""
    children = active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(GRACE)
        child.kill()
        child.join()


def _exit_with(work: Work, command: Command) -> None:
    """Run ``work`` in a child process; the parent sees only its exit status."""
    # Ctrl-C in a terminal also reaches the children. They end at once, and the parent reports it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        status = work(command)
    except Stopped as stop:
        status = stop.status
    if status:
        sys.stdout.flush()
        sys.exit(status)


def _on_cpu(local_rank: int, url: str, work: Work, command: Command) -> None:
    """Run ``work`` in a CPU process; Detectron2 0.6 can launch GPU processes only."""
    rank = command.machine_rank * command.num_gpus + local_rank
    _join(url, rank, command.num_processes, local_rank, command.num_gpus)
    _exit_with(work, command)


def _join(url: str, rank: int, world: int, local_rank: int, local_size: int) -> None:
    """Initialise the process group, and the local group of this machine that Detectron2 needs."""
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node: expected at most {torch.cuda.device_count()}, the number of GPUs "
            f"of this machine, got {local_size}"
        )
    if on_gpu:
        torch.cuda.set_device(local_rank)
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, url, DEFAULT_TIMEOUT, world_size=world, rank=rank)
    for first in range(0, world, local_size):
        group = distributed.new_group(list(range(first, first + local_size)))
        if first <= rank < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
