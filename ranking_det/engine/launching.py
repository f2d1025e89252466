"""Starting the processes of a run: one, several, or those that torchrun started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT, _find_free_port
from detectron2.utils import comm
from torch import distributed, multiprocessing

from ranking_det.engine.command import Command
from ranking_det.user_errors import UserError

Work = Callable[[Command], int]


def start(work: Work, command: Command) -> int:
    """Run ``work`` in every process; return an exit status that is not 0, if there is one.

    Args:
        work: takes the command and returns an exit status.
        command: how many processes, and where. Under torchrun, which has flags of its own for
            these, they are not looked at.

    Raises:
        UserError: they cannot be had here.
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
        if torch.cuda.is_available():
            place = command.num_machines, command.machine_rank, command.dist_url
            launch(_exit_with, command.num_gpus, *place, args=(work, command))
        else:
            url = command.dist_url
            url = f"tcp://127.0.0.1:{_find_free_port()}" if url == "auto" else url
            multiprocessing.spawn(_on_cpu, (url, work, command), nprocs=command.num_gpus)
    except multiprocessing.ProcessExitedException as error:
        return error.exit_code or 1
    return 0


def check_processes(command: Command) -> None:
    """Raise UserError if this machine cannot run the processes that were asked for."""
    if command.num_gpus < 1 or command.num_machines < 1:
        raise UserError("--num-gpus and --num-machines must be at least 1")
    if not 0 <= command.machine_rank < command.num_machines:
        raise UserError(
            f"--machine-rank must be 0 to {command.num_machines - 1}, got {command.machine_rank}"
        )
    if command.num_machines > 1 and command.dist_url == "auto":
        raise UserError("--num-machines needs --dist-url tcp://HOST:PORT, machine 0's")
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    usable = f"{gpus} usable GPUs" if gpus else f"no usable GPU and {cores} CPU cores"
    if command.num_gpus > (gpus or cores):
        raise UserError(f"--num-gpus is {command.num_gpus}, but this machine has {usable}")


def _exit_with(work: Work, command: Command) -> None:
    """In a process of its own, whose exit status is all that the others see."""
    status = work(command)
    if status:
        sys.stdout.flush()
        sys.exit(status)


def _on_cpu(local_rank: int, url: str, work: Work, command: Command) -> None:
    """Detectron2 0.6 can launch on GPUs only."""
    rank = command.machine_rank * command.num_gpus + local_rank
    _join(url, rank, command.num_processes, local_rank, command.num_gpus)
    _exit_with(work, command)


def _join(url: str, rank: int, world: int, local_rank: int, local_size: int) -> None:
    """Meet the other processes, and make the group of this machine that Detectron2 asks for."""
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{local_size} processes on this machine, which has {torch.cuda.device_count()} GPUs"
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
