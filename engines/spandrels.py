"""Upscalers of all the kinds that spandrel knows, run by it where the artist has installed it.

It needs torchvision, and so is no dependency of ours: `foreign` says which files are left to it.
"""

import torch
from torch import nn

from engines.checkpoints import files
from engines.diffusion.upscaler import device_of
from engines.errors import BadCheckpoint

FAMILY = "spandrel"


class SpandrelNet(nn.Module):
    """A net of spandrel that takes and gives pictures `(B, 3, H, W)` in [0, 1], whose sides grow by `scale`."""

    family = FAMILY
    reach = 32  # pixels round a place: what is further away changes it little, even by attention in windows

    def __init__(self, described):
        super().__init__()
        self.net = described.model
        self.scale = described.scale
        self._described = described

    device = property(device_of)

    def forward(self, x):
        return self._described(x)  # which also pads to the sides that the net wants


def load(path):
    """The upscaler in a safetensors file. Raises `BadCheckpoint` for what spandrel does not know, or is no upscaler."""
    import spandrel

    files.read_header(path)
    try:
        described = spandrel.ModelLoader(device="cpu").load_from_file(path)
    except (spandrel.UnsupportedModelError, RuntimeError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"{path.name} is of no kind that spandrel knows; it cannot be used.") from error
    channels = getattr(described, "input_channels", None), getattr(described, "output_channels", None)
    if not isinstance(described, spandrel.ImageModelDescriptor) or channels != (3, 3):
        raise BadCheckpoint(f"{path.name} makes no larger picture of a picture in colours; it cannot be used.")
    model = SpandrelNet(described).float()
    if not all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point()):
        raise BadCheckpoint(f"{path.name} holds NaN or infinite values; it cannot be used.")
    return model
