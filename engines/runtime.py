"""Where and how precisely the engine computes."""

import os
from pathlib import Path

import torch

from engines.errors import BadRequest

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of Linux


def choose_device(name="auto"):
    """The torch device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` stands for on this machine.

    `auto` takes the first GPU, then Apple's, then the CPU. Raises `BadRequest` for a device that is
    not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    there = {
        "cpu": name == "cpu",
        "mps": name == "mps" and torch.backends.mps.is_available(),
        "cuda": kind == "cuda" and (number or "0").isdigit() and int(number or 0) < torch.cuda.device_count(),
    }
    if not there.get(kind):
        raise BadRequest(
            f"There is no device “{name}” on this machine; use auto, cpu, or a GPU that it has (cuda, cuda:1, mps)."
        )
    return torch.device(name)


def autocast(device):
    """The context of mixed precision in training: bfloat16 on an NVIDIA GPU, plain float32 elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def memory_budget(device):
    """Bytes that loaded models may take on a device: half of an NVIDIA GPU's, elsewhere a quarter of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):  # Windows does not tell
        return 4 * 2**30


class PeakMemory:
    """`with PeakMemory(device) as peak:`; then `peak.bytes` is the most that was held while inside.

    On an NVIDIA GPU that is torch's own memory there, elsewhere that of the whole process; None where the system
    does not tell, which only Linux does.
    """

    def __init__(self, device):
        self.device = device
        self.bytes = None

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR.exists():
            CLEAR.write_text("5")  # the peak begins anew
        return self

    def __exit__(self, *_):
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        elif CLEAR.exists():
            line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            self.bytes = int(line.split()[1]) * 1024
