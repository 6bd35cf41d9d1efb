"""An autoencoder for which memory may be short: whole pictures where there is room, and tile by tile where not."""

from functools import partial

import torch
from torch import nn

from engines import tensors
from engines.diffusion.windows import fused

LEAST = 8  # latents a side of a tile; what is smaller shows too little to be decoded
SHARED = 0.5  # of a side that two tiles share
MARGIN = 8  # a tile's side is so many times what counts for nothing along its inner edges


class Tiled(nn.Module):
    """The autoencoder `stage`, whose `encode` and `decode` go on where memory runs out.

    Then they go over one row of a batch at a time, and `by_rows` is true from then on; if one is too much, over tiles,
    and `by_tiles` is. Tiles are as large as memory lets them be, of half of the picture's longer side, a quarter and so
    on; neighbours share `SHARED` of a side, in which the one passes smoothly into the other, and the outermost part of
    it, of which an autoencoder knows least, is left out.

    By convolutions that see no further than this part the result is that of the whole. A group norm and an attention
    see all of what they are given: with them, tones of tiles differ a little, and pass into each other. Raises
    `torch.OutOfMemoryError` where memory is too short for tiles of `LEAST` latents, too.
    """

    def __init__(self, stage):
        super().__init__()
        self.stage = stage
        self.config, self.family = stage.config, stage.family
        self.by_rows = self.by_tiles = False

    def encode(self, pictures):
        """Latents of pictures `(B, 3, H, W)`, as the autoencoder makes them."""
        return self._spared(self.stage.encode, pictures, taken=self.config.factor)

    def decode(self, latents):
        """Pictures `(B, 3, H, W)` of latents, as the autoencoder makes them."""
        return self._spared(self.stage.decode, latents, given=self.config.factor)

    def _spared(self, function, x, **sides):
        made = _tried(function, x)
        if made is None and len(x) > 1:
            self.by_rows = True
            return tensors.row_by_row(partial(self._spared, function, **sides))(x)
        size = max(x.shape[2:]) // sides.get("taken", 1)
        while made is None:
            if size <= LEAST:
                raise torch.OutOfMemoryError("There is no memory for a tile of a picture.")
            self.by_tiles, size = True, max(LEAST, -(-size // 2))
            tiles = {"size": size, "overlap": SHARED, "margin": size // MARGIN, "at_once": 1}
            made = _tried(partial(fused, function, **tiles, **sides), x)
        return made


def _tried(function, x):
    """What `function` makes of `x`, or None where memory runs out."""
    try:
        return function(x)
    except torch.OutOfMemoryError:
        pass
    if torch.cuda.is_available():  # what the failure held is free by now
        torch.cuda.empty_cache()
    return None
