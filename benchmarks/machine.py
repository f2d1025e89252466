"""Describe the machine and the software of a measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe_machine(device: str) -> dict[str, object]:
    """Describe the device ("cpu" or "cuda"), the software, and how busy the machine is."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].split(":")[1].strip() if models else name
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
