"""Signals stop several processes together, and handlers are restored."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from torch import multiprocessing

from ranking_det.engine import main
from ranking_det.engine.command import Command
from ranking_det.engine.launching import start
from ranking_det.engine.stopping import Stopped, on_signals, stop


def send_when(path, count, number):
    """Send a signal to this process as soon as a folder has some files."""

    def wait():
        while len(list(path.iterdir())) < count:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def wait_for_a_signal(command):
    """Write a file with the name of the process id; SIGUSR1 stops as in training."""
    with on_signals(stop, signal.SIGUSR1):
        Path(command.config_file, str(os.getpid())).touch()
        while True:
            time.sleep(0.05)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_the_launching_process_ends_its_processes(name, tmp_path, monkeypatch):
    # Importing Detectron2 again takes longer than all tests of this file.
    fork = partial(multiprocessing.start_processes, start_method="fork")
    monkeypatch.setattr(multiprocessing, "spawn", fork)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    number = signal.Signals[name]
    send_when(tmp_path, 2, number)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    with on_signals(stop, signal.SIGTERM), pytest.raises(Stopped) as caught:
        start(wait_for_a_signal, Command(config_file=str(tmp_path), num_gpus=2))
    assert (caught.value.number, caught.value.status) == (number, 128 + number)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    for path in tmp_path.iterdir():
        assert not Path("/proc", path.name).exists()


def test_ctrl_c_gives_one_line_and_exit_status_130(monkeypatch, capsys):
    monkeypatch.setattr(
        "ranking_det.engine.run.start", lambda *_: os.kill(os.getpid(), signal.SIGINT)
    )
    handler = signal.getsignal(signal.SIGINT)
    assert main(["--config-file", "a.py"]) == 130
    assert capsys.readouterr().err == "train_net.py: stopped by SIGINT\n"
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_in_the_code_of_a_config_ends_like_ctrl_c(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text("raise KeyboardInterrupt\n")
    assert main(["--config-file", str(config)]) == 130
    assert capsys.readouterr().err == "train_net.py: stopped by SIGINT\n"


def test_a_signal_that_is_ignored_stays_ignored():
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with on_signals(stop, signal.SIGUSR1):
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, handler)
