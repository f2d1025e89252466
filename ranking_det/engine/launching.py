"""Launch the processes of a run: one, several, or the processes that torchrun has started."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from detectron2.engine import TrainerBase
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed, multiprocessing
from torch.distributed import Store, TCPStore

from ranking_det.engine.checkpoint import how_to_continue
from ranking_det.engine.command import Command
from ranking_det.engine.failures import killed_by, lost_connection
from ranking_det.engine.heartbeats import heartbeats
from ranking_det.engine.stopping import Stopped, on_signals
from ranking_det.user_errors import RunError, UserError, reason_of

Work = Callable[[Command], int]

GRACE = 5
"""Seconds that processes have to end by themselves after one of them has reported a failure."""

ITERATION = "iteration"
"""Key of the iteration in the store of the process group."""


def start(work: Work, command: Command, *, output_dir: str = "") -> int:
    """Run ``work`` in every process of the command.

    Args:
        work: takes the command and returns an exit status.
        command: says how many processes to start and where. Torchrun has its own flags for this;
            under torchrun the flags of the command are ignored.
        output_dir: the output folder of a training run, for the advice on how to continue it.

    Returns:
        0, or the exit status of a process that failed.

    Raises:
        UserError: this machine cannot run so many processes, or one of them raised the error.
        RunError: a process was killed or is lost, or one of them raised the error.
        Stopped: a signal has stopped the command; its processes have ended.
    """
    if distributed.is_torchelastic_launched():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        _join("env://", *(int(os.environ[name]) for name in names), address=address)
        try:
            return work(command)
        finally:
            distributed.destroy_process_group()
    check_processes(command)
    if command.num_processes == 1:
        return work(command)
    return _launch(work, command, output_dir)


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
    if command.dist_url.startswith("file:"):
        _check_shared_file(command)
    elif command.dist_url != "auto":
        _check_host(command.dist_url)
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


def _check_host(url: str) -> None:
    """Raise UserError for an unknown host, for which torch would wait for minutes."""
    address = urlsplit(url)
    try:
        socket.getaddrinfo(address.hostname, address.port)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--dist-url: expected the host name or IP address of machine 0, got "
            f"{address.hostname!r} ({reason_of(error)})"
        ) from error


def _check_shared_file(command: Command) -> None:
    """Raise UserError if the processes cannot meet at the file of ``--dist-url``."""
    path = Path(urlsplit(command.dist_url).path)
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        text = f"a file in a writable folder, got {command.dist_url!r} ({folder} is not one)"
    # On other machines, processes of this run may have written to it.
    elif path.is_dir() or (command.num_machines == 1 and path.exists() and path.stat().st_size):
        text = f"the path of a new file, got {command.dist_url!r}"
    else:
        return
    raise UserError(f"--dist-url: expected {text}")


def _launch(work: Work, command: Command, output_dir: str) -> int:
    """Run ``work`` in several processes, and wait for them; see :func:`start`."""
    store, url = _serve(command)
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = url, work, command, failures
    earlier_children = set(active_children())
    try:
        context = multiprocessing.spawn(
            _work_as_child, arguments, nprocs=command.num_gpus, join=False
        )
        with on_signals(partial(_send, context.processes), signal.SIGUSR1):
            _wait(context.processes, failures, command)
    except _Reported as reported:
        return reported.status
    except Stopped as stopped:
        if stopped.details or not output_dir:
            raise
        is_known = store is not None and store.check([ITERATION])
        position = f" at iteration {store.get(ITERATION).decode()}" if store and is_known else ""
        raise Stopped(stopped.number, f"{position}; {how_to_continue(output_dir)}") from stopped
    except _WorkerError as error:
        advice = how_to_continue(output_dir) if output_dir else "start the command again"
        raise RunError(f"{error}; {advice}") from error
    finally:
        # A child that is stopped, or waits in a collective operation, would ignore SIGTERM.
        for process in set(active_children()) - earlier_children:
            process.kill()
            process.join()
    return 0


def _serve(command: Command) -> tuple[TCPStore | None, str]:
    """Open the port at which the processes find each other; return the store and its URL.

    The parent process opens it, not one of the children, so that the store outlives them.
    """
    url = command.dist_url
    if url.startswith("file:") or command.machine_rank > 0:
        return None, url
    address = urlsplit("tcp://127.0.0.1:0" if url == "auto" else url)
    try:
        store = TCPStore(
            str(address.hostname), address.port or 0, is_master=True, wait_for_workers=False
        )
    except distributed.DistError as error:
        raise UserError(
            f"--dist-url: cannot open port {address.port} of this machine ({_port_fault(error)}); "
            "give another port, or wait until the other run has ended"
        ) from error
    return store, f"tcp://{address.netloc.rpartition(':')[0]}:{store.port}"


def _port_fault(error: BaseException) -> str:
    return "address already in use" if "EADDRINUSE" in str(error) else reason_of(error)


class _WorkerError(Exception):
    """A child process was killed, or another one is lost."""


class _Reported(Exception):  # noqa: N818 - it only leaves the loop
    """A child process has failed with a traceback."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _wait(processes: list[Any], failures: Any, command: Command) -> None:
    """Wait for the child processes; raise the failure of the first that ends with one."""
    ranks = {process.sentinel: rank for rank, process in enumerate(processes)}
    while ranks:
        for sentinel in connection.wait(list(ranks)):
            rank = ranks.pop(sentinel)  # type: ignore[call-overload]
            process = processes[rank]
            process.join()
            if process.exitcode == 0:
                continue
            failure = None if failures.empty() else failures.get()
            if isinstance(failure, (Stopped, RunError)):
                # All processes end in this way, and the main one still has to close its files.
                for other in processes:
                    other.join(GRACE)
            if failure is not None:
                raise failure
            if process.exitcode > 0:
                raise _Reported(process.exitcode)
            number = -process.exitcode
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                raise Stopped(number)
            rank += command.machine_rank * command.num_gpus
            raise _WorkerError(f"worker {rank} (process {process.pid}) {killed_by(number)}")


def _send(processes: Iterable[Any], number: int) -> None:
    for process in processes:
        os.kill(process.pid, number)


def _work_as_child(local_rank: int, url: str, work: Work, command: Command, failures: Any) -> None:
    """Run ``work`` in a child process; the parent reports its failures."""
    # Ctrl-C in a terminal also reaches the children. They end at once, and the parent reports it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    status = 1
    try:
        rank = command.machine_rank * command.num_gpus + local_rank
        _join(url, rank, command.num_processes, local_rank, command.num_gpus)
        _shared.failures = failures
        status = work(command)
    except (UserError, RunError, Stopped) as failure:
        failures.put(failure)
    except Exception as error:
        if lost_connection(error):  # the parent knows the cause, and ends this process now
            time.sleep(2 * GRACE)
        traceback.print_exc()
    sys.stdout.flush()
    if status:
        sys.exit(status)


class _Shared:
    """The store, address and queue by which this process communicates with the others."""

    store: Store | None = None
    address: tuple[str, int] | None = None
    failures: Any = None


_shared = _Shared()


@contextmanager
def watched(timeout: float, advice: Callable[[], str]) -> Iterator[None]:
    """End this process if another one is lost, within the context; see :mod:`.heartbeats`.

    Args:
        timeout: the time in seconds after which a silent process counts as lost.
        advice: returns how to continue the run.
    """
    if _shared.address is None:
        yield
        return

    def fail(names: str) -> None:
        error = RunError(
            f"{names} has not answered for {timeout:g} seconds (train.timeout), so it has failed, "
            f"hangs, is stopped or has lost its network; end it and {advice()}"
        )
        if _shared.failures is None:
            sys.stderr.write(f"train_net.py: error: {error}\n")
        else:
            _shared.failures.put(error)
        os._exit(1)  # the main thread may wait for the lost process

    rank_and_world = comm.get_rank(), comm.get_world_size()
    with heartbeats(_shared.address, *rank_and_world, timeout, fail):
        yield


def note_iteration(trainer: TrainerBase) -> None:
    """Tell the parent process the iteration, for its message if a signal stops the run.

    Register the function in the main process.

    Args:
        trainer: gives the iteration.
    """
    if _shared.store is not None:
        _shared.store.set(ITERATION, str(trainer.iter))


def _join(
    url: str,
    rank: int,
    world: int,
    local_rank: int,
    local_size: int,
    address: tuple[str, int] | None = None,
) -> None:
    """Initialize the process group, and the local group of this machine that Detectron2 needs.

    ``address`` is that of the store; by default the one in the URL.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node: expected at most {torch.cuda.device_count()}, the number of GPUs "
            f"of this machine, got {local_size}"
        )
    if on_gpu:
        torch.cuda.set_device(local_rank)
    backend = "nccl" if on_gpu else "gloo"
    if url.startswith("tcp:"):
        parts = urlsplit(url)
        address = str(parts.hostname), parts.port or 0
        _shared.store = TCPStore(*address, is_master=False)
        rendezvous: dict[str, Any] = {"store": _shared.store}
    else:
        rendezvous = {"init_method": url}
    _shared.address = address
    distributed.init_process_group(
        backend, **rendezvous, timeout=DEFAULT_TIMEOUT, world_size=world, rank=rank
    )
    for first in range(0, world, local_size):
        group = distributed.new_group(list(range(first, first + local_size)))
        if first <= rank < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
