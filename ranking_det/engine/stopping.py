"""Stop a command by Ctrl-C, SIGTERM or SIGUSR1: one line, an exit status, and a run to resume.

SIGINT (Ctrl-C) and SIGTERM stop at once. SIGUSR1, which a scheduler can send before the time of a
job ends, stops a training run after its current step and a checkpoint.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ranking_det.engine.checkpoint import RunCheckpointer


class Stopped(KeyboardInterrupt):
    """A signal has stopped the command.

    Args:
        number: the number of the signal.
        details: how far the command has come and how to continue it; the end of the message.
    """

    def __init__(self, number: int, details: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{details}")
        self.number, self.details = number, details

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments; a child process sends the exception to its parent."""
        return Stopped, (self.number, self.details)

    @property
    def status(self) -> int:
        """The exit status that shells use for a process that a signal has ended."""
        return 128 + self.number


@contextmanager
def on_signals(react: Callable[[int], None], *numbers: int) -> Iterator[None]:
    """Call a function on signals within the context.

    Signals that the parent process has set to be ignored stay ignored. In a thread other than the
    main one this does nothing, because Python does not allow signal handlers there.

    Args:
        react: called with the number of the signal.
        numbers: the signals.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        react(number)

    is_main_thread = threading.current_thread() is threading.main_thread()
    earlier = {number: signal.getsignal(number) for number in numbers if is_main_thread}
    earlier = {number: handler for number, handler in earlier.items() if handler != signal.SIG_IGN}
    for number in earlier:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def stop(number: int) -> None:
    """Raise :class:`Stopped`.

    Args:
        number: the number of the signal.
    """
    raise Stopped(number)


class CheckpointRequest:
    """A request to write a checkpoint and end the run, on which all processes agree.

    Attributes:
        received: whether this process has received the signal.
        agreed: whether any process has; after each step the value is the same in all processes.
    """

    received = False
    agreed = False

    def receive(self, number: int) -> None:
        """Note the signal.

        Args:
            number: the number of the signal.
        """
        self.received = True


class CheckpointAndStop(HookBase):
    """Write a checkpoint and stop the run if this is requested.

    Register the hook on all workers, after the hooks of other checkpoints and of the metrics.

    Args:
        request: the request; the :class:`TrainingGuard` of the trainer sets its ``agreed``.
        checkpointer: writes the checkpoint.
    """

    def __init__(self, request: CheckpointRequest, checkpointer: RunCheckpointer) -> None:
        self.request = request
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        """Write the checkpoint in the main process; then raise :class:`Stopped` in all."""
        # After the last step the run ends anyway.
        if self.request.agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            iteration = self.trainer.iter
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            comm.synchronize()  # wait, because the first process to exit ends the others
            raise Stopped(signal.SIGUSR1)
