"""Colours cleaned up: what time, light and scanners have done to a picture, taken back as far as is asked.

Pictures are `(H, W, 3)` uint8; a share in [0, 1] says how far to go, 0 changes nothing. What is to be done is
told from `sample (N, 3)`, some of the pixels that are seen.
"""

import cv2
import numpy as np

BLACKEST = 0.005  # share of the pixels that may become black, and as many white
POWER = 6  # of the mean that stands for the light; 1 is grey world, infinity the brightest pixel
VIVID = 1.6  # times as much contrast as there was, from which on colours are not made more vivid still
SAMPLE = 1_000_000  # pixels at most that a correction is told from
PLAIN = 8  # levels between dark and bright below which a surface is plain, and left alone


def cleaned(picture, balance=0.0, fading=0.0, levels=0.0, vividness=0.0, alpha=None):
    """The picture with its white balance, its fading and its levels corrected, in that order.

    `vividness` in [-1, 1] then leads colours away from grey, or to it. Where `alpha (H, W)` uint8 is given, what
    it hides has no say in it.
    """
    for correct, share in ((white_balanced, balance), (unfaded, fading), (levelled, levels)):
        if share:
            wanted = correct(picture, _sample(picture, alpha))
            wanted -= picture
            wanted *= np.float32(share)
            wanted += picture
            picture = np.clip(np.round(wanted, out=wanted), 0, 255, out=wanted).astype(np.uint8)
    if vividness:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        picture = cv2.addWeighted(picture, 1 + vividness, grey, -vividness, 0)
    return picture


def _sample(picture, alpha):
    pixels = picture.reshape(-1, 3) if alpha is None else picture[alpha > 0]
    return pixels[:: -(-len(pixels) // SAMPLE)] if len(pixels) else picture.reshape(-1, 3)


def white_balanced(picture, sample):
    """As under white light, float32: each channel's power mean becomes the same (Finlayson & Trezzi, 2004)."""
    light = np.mean((sample / 255.0) ** POWER, axis=0) ** (1 / POWER)
    return picture * (light.mean() / np.maximum(light, 1e-3)).astype(np.float32)


def unfaded(picture, sample):
    """As before it faded, float32: each dye has its own loss, so each channel is stretched by itself.

    What colour is left is then made more vivid, by the root of how much contrast has grown.
    """
    ends = [_ends(channel) for channel in sample.T]
    stretched, before = _stretched(sample, ends), sample.std() + 1e-3
    vivid = np.float32(np.clip(stretched.std() / before, 1, VIVID) ** 0.5)
    stretched = _stretched(picture, ends)
    grey = stretched.mean(2, keepdims=True)
    return grey + vivid * (stretched - grey)


def levelled(picture, sample):
    """From black to white, float32: the lightness stretched, hues left alone."""
    return _stretched(picture, [_ends(cv2.cvtColor(sample[None], cv2.COLOR_RGB2GRAY))] * 3)


def _ends(values):
    """What becomes 0 and 255: the darkest and the brightest, but for a few; of a plain surface it stays as it is."""
    low, high = np.quantile(values, (BLACKEST, 1 - BLACKEST))
    return (low, high) if high - low >= PLAIN else (0, 255)


def _stretched(pixels, ends):
    low, high = np.float32(ends).T
    return (pixels - low) * (255 / (high - low))
