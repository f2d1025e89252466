"""Heartbeats between the processes of a run, to detect a process that hangs or is lost.

A collective operation waits for a process that is stopped or whose machine is lost. On GPUs it does
not say for which one. Therefore each process writes a number to the store of the process group
every few seconds, in a thread, and reads those of the others. A process that only computes for a
long time, such as the main process in an evaluation, keeps writing. A process that has failed stops
writing, as does one whose machine is lost.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count

from torch.distributed import DistError, TCPStore

TIMEOUT = 600.0
"""Default of ``train.timeout``, in seconds."""

PERIOD = 5.0
"""Longest time between two heartbeats, in seconds."""

END = "end"


@contextmanager
def heartbeats(
    address: tuple[str, int], rank: int, world: int, timeout: float, fail: Callable[[str], None]
) -> Iterator[None]:
    """Write heartbeats, and watch those of the other processes, within the context.

    The time-out counts heartbeats of this process, not seconds. Processes that are all stopped, as
    may happen under a scheduler, can therefore continue together.

    Args:
        address: host and port of the TCPStore.
        rank: the rank of this process.
        world: the number of processes.
        timeout: the time in seconds after which a silent process counts as lost.
        fail: called in a thread with the names of the lost processes. It must end the process,
            because the main thread may wait for the lost processes.
    """
    store = TCPStore(*address, is_master=False, timeout=timedelta(seconds=timeout))
    period = min(PERIOD, timeout / 4)
    ended = threading.Event()
    names: dict[int, str] = {}
    last: dict[int, str] = {}
    missed = dict.fromkeys((r for r in range(world) if r != rank), 0)
    process = f"process {os.getpid()} on {socket.gethostname()}"
    # Not in the thread, which a busy machine may start late: the others need the name.
    store.set(_key(rank), f"{process}|")

    def exchange(number: int) -> None:
        store.set(_key(rank), f"{process}|{number}")
        for other in missed:
            value = store.get(_key(other)).decode() if store.check([_key(other)]) else ""
            names[other] = value.rpartition("|")[0]
            is_alive = value == END or value != last.get(other, "")
            missed[other] = 0 if is_alive else missed[other] + 1
            last[other] = value

    def watch() -> None:
        unanswered = 0  # periods without an answer of the store
        with ThreadPoolExecutor(1) as executor:
            step = executor.submit(exchange, 0)
            for number in count(1):
                if ended.wait(period):
                    return
                is_done = step.done()
                unanswered = 0 if is_done and step.exception() is None else unanswered + 1
                lost = [_name(i, names[i]) for i in missed if missed[i] * period >= timeout]
                if unanswered * period >= timeout:
                    lost = [f"machine 0 ({address[0]}:{address[1]})"]
                if lost:
                    fail(", ".join(lost))
                if is_done:
                    step = executor.submit(exchange, number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    # The others must not count this process as lost. After an error they must: they may wait for
    # it, because the collective operations of GPUs do not notice its end.
    with suppress(DistError):  # the last process may find no store
        store.set(_key(rank), END)


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"


def _name(rank: int, process: str) -> str:
    return f"worker {rank} ({process})" if process else f"worker {rank}"
