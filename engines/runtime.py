"""Where and how precisely the engine computes."""

import contextlib
import os
import platform
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from engines.errors import BadRequest

PRECISIONS = ("auto", "float32", "bfloat16")  # of a training
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


def autocast(device, precision="auto"):
    """The context of a training in a `precision`, one of PRECISIONS; weights and losses stay in float32.

    `auto` is mixed with bfloat16 on an NVIDIA GPU and float32 elsewhere: most processors emulate bfloat16, slowly.
    """
    mixed = device.type == "cuda" if precision == "auto" else precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed)


def attention(device):
    """The context of attention in a training: on a processor plain products.

    The way back through its fused kernel takes longer.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def precision(device):
    """What large nets compute in: half of the bits on an NVIDIA GPU, bfloat16 where it has that; else float32."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def device_name(device):
    """What the machine calls a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def total_memory(device):
    """Bytes of memory that a device has, an NVIDIA GPU its own and others the machine's; None if nobody tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows does not tell
        return None


def memory_budget(device):
    """Bytes that loaded models may take on a device: half of an NVIDIA GPU's, elsewhere a quarter of the machine's."""
    return (total_memory(device) or 16 * 2**30) // (2 if device.type == "cuda" else 4)


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
