"""Where words act: the cross-attention of a UNet, seen as maps (Hertz et al., 2022; Tang et al., 2023, DAAM)."""

import contextlib

import torch
import torch.nn.functional as F

from engines.diffusion.unet import TransformerBlock


@contextlib.contextmanager
def watched(unet):
    """Inside, a list that takes up the weights `(B, heads, N, T)` of each cross-attention, as the net comes to it.

    The weights of a place, one of `N`, over the `T` tokens sum to 1.
    """
    found = []

    def look(attention, told, _):
        x, context = told
        q, k = attention.by_head(attention.to_q(x)), attention.by_head(attention.to_k(context))
        found.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))

    blocks = [module for module in unet.modules() if isinstance(module, TransformerBlock)]
    hooks = [block.attn2.register_forward_hook(look) for block in blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def places(weights, tokens, size):
    """How much each place of latents of `size` `(h, w)` looks at the range `tokens`: `(B, h, w)` in [0, 1].

    The mean over heads and layers; `weights` are those of `watched`.
    """
    height, width = size
    maps = []
    for layer in weights:
        step = round((height * width / layer.shape[2]) ** 0.5)
        share = layer[..., tokens.start : tokens.stop].sum(-1).mean(1)
        share = share.unflatten(1, (height // step, width // step))
        maps.append(F.interpolate(share[:, None], size=size, mode="bilinear")[:, 0])
    return torch.stack(maps).mean(0)
