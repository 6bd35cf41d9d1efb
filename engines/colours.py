"""Colours cleaned up: what time, light and scanners have done to a picture, taken back as far as is asked.

Pictures are `(H, W, 3)` uint8; a `share` in [0, 1] says how far to go, 0 changes nothing.
"""

import cv2
import numpy as np

BLACKEST = 0.005  # share of the pixels that may become black, and as many white
POWER = 6  # of the mean that stands for the light; 1 is grey world, infinity the brightest pixel
VIVID = 1.6  # times the saturation that fading is taken back by at most


def cleaned(picture, balance=0.0, fading=0.0, levels=0.0):
    """The picture with its white balance, its fading and its levels corrected, in that order."""
    for correct, share in ((white_balanced, balance), (unfaded, fading), (levelled, levels)):
        if share:
            wanted = correct(picture)
            picture = np.round(picture + share * (wanted - picture)).clip(0, 255).astype(np.uint8)
    return picture


def white_balanced(picture):
    """As under white light, float: each channel's power mean becomes the same (Finlayson & Trezzi, 2004)."""
    light = np.mean((picture.reshape(-1, 3) / 255.0) ** POWER, axis=0) ** (1 / POWER)
    return picture * (light.mean() / np.maximum(light, 1e-3))


def unfaded(picture):
    """As before it faded, float: each dye has its own loss, so each channel is stretched by itself.

    What colour is left is made more vivid after, by as much as contrast had been lost.
    """
    stretched = np.stack([_stretched(channel, channel) for channel in cv2.split(picture)], axis=2)
    before, after = picture.std() + 1e-3, stretched.std() + 1e-3
    vivid = np.clip(after / before, 1, VIVID) ** 0.5
    grey = stretched.mean(2, keepdims=True)
    return grey + vivid * (stretched - grey)


def levelled(picture):
    """From black to white, float: the lightness stretched, hues left alone."""
    return _stretched(picture, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def _stretched(values, by):
    # so that the darkest and the brightest of `by`, but for a few, become 0 and 255
    low, high = np.quantile(by, (BLACKEST, 1 - BLACKEST))
    return (values - low) * (255 / (high - low)) if high - low >= 8 else values.astype(float)  # else a plain surface
