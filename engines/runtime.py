"""Where and how precisely the engine computes."""

import torch

from engines.errors import BadRequest


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
