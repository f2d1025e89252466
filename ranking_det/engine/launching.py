"""Starting the processes of a run: one, several, or those that torchrun started."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable

import torch
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed, multiprocessing

from ranking_det.user_errors import UserError

Work = Callable[[argparse.Namespace], int]


def start(work: Work, args: argparse.Namespace) -> int:
    """Run ``work`` in every process; return an exit status that is not 0, if there is one.

    Args:
        work: takes the arguments and returns an exit status.
        args: ``num_gpus``, ``num_machines``, ``machine_rank``, ``dist_url``. Under torchrun, which
            has flags of its own for these, they are not looked at.

    Raises:
        UserError: they cannot be had here.
    """
    if under_torchrun():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        _join("env://", *(int(os.environ[name]) for name in names))
        try:
            return work(args)
        finally:
            distributed.destroy_process_group()
    check_processes(args)
    if args.num_gpus * args.num_machines == 1:
        return work(args)
    try:
        if torch.cuda.is_available():
            place = args.num_machines, args.machine_rank, args.dist_url
            launch(_exit_with, args.num_gpus, *place, args=(work, args))
        else:
            url = args.dist_url
            url = f"tcp://127.0.0.1:{_free_port()}" if url == "auto" else url
            multiprocessing.spawn(_on_cpu, (url, work, args), nprocs=args.num_gpus)
    except multiprocessing.ProcessExitedException as error:
        return error.exit_code or 1
    return 0


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def check_processes(args: argparse.Namespace) -> None:
    """Raise UserError if this machine cannot run the processes that were asked for."""
    if args.num_gpus < 1 or args.num_machines < 1:
        raise UserError("--num-gpus and --num-machines must be at least 1")
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank must be 0 to {args.num_machines - 1}, got {args.machine_rank}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("--num-machines needs --dist-url tcp://HOST:PORT, machine 0's")
    found = torch.cuda.device_count()
    usable = f"{found} usable GPUs" if found else f"no usable GPU and {os.cpu_count()} CPU cores"
    if args.num_gpus > (found or os.cpu_count() or 1):
        raise UserError(f"--num-gpus is {args.num_gpus}, but this machine has {usable}")


def _exit_with(work: Work, args: argparse.Namespace) -> None:
    """In a process of its own, whose exit status is all that the others see."""
    status = work(args)
    if status:
        sys.stdout.flush()
        sys.exit(status)


def _on_cpu(local_rank: int, url: str, work: Work, args: argparse.Namespace) -> None:
    """Detectron2 0.6 can launch on GPUs only."""
    rank = args.machine_rank * args.num_gpus + local_rank
    _join(url, rank, args.num_gpus * args.num_machines, local_rank, args.num_gpus)
    _exit_with(work, args)


def _join(url: str, rank: int, world: int, local_rank: int, local_size: int) -> None:
    """Meet the other processes, and make the group of this machine that Detectron2 asks for."""
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{local_size} processes on this machine, which has {torch.cuda.device_count()} GPUs"
        )
    if on_gpu:
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=url,
        rank=rank,
        world_size=world,
        timeout=DEFAULT_TIMEOUT,
    )
    for first in range(0, world, local_size):
        group = distributed.new_group(list(range(first, first + local_size)))
        if first <= rank < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
