"""What happens to pictures before people enlarge them: blur, noise, JPEG and resampling, in any order."""

import io

import cv2
import numpy as np
from PIL import Image

CLEAN = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.HAMMING)


def reduced(pixels, scale, rng):
    """`(H, W, 3)` uint8 made smaller by `scale` and nothing else, by one of the filters that programs use."""
    size = (pixels.shape[1] // scale, pixels.shape[0] // scale)
    return np.array(Image.fromarray(pixels).resize(size, CLEAN[rng.integers(len(CLEAN))]))


def worn(pixels, scale, wear, rng):
    """`(H, W, 3)` uint8 made smaller by `scale` and damaged, up to `wear` in [0, 1], in random order.

    The order, the kinds and the strengths are drawn (Wang et al., 2021, Real-ESRGAN, section 3.1; Zhang et
    al., 2021, "Designing a practical degradation model").
    """
    if not wear:
        return reduced(pixels, scale, rng)
    acts = [act for act in (_blurred, _noisy, _coded, _resampled) if rng.random() < 0.7]
    acts.insert(int(rng.integers(len(acts) + 1)), lambda pixels, wear, rng: reduced(pixels, scale, rng))
    rng.shuffle(acts)
    for act in acts:
        pixels = act(pixels, wear, rng)
    return pixels


def _blurred(pixels, wear, rng):
    across, along = rng.uniform(0.2, 0.2 + 1.6 * wear, 2)
    return cv2.GaussianBlur(pixels, (0, 0), across, sigmaY=along)


def _noisy(pixels, wear, rng):
    # of the sensor, in each colour or in all alike, and of the light
    channels = 3 if rng.random() < 0.6 else 1
    strength = rng.uniform(0, 25 * wear)
    spread = strength * (np.sqrt(pixels / 255) if rng.random() < 0.4 else 1)
    noise = rng.normal(0, 1, (*pixels.shape[:2], channels)) * spread
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _coded(pixels, wear, rng):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(rng.uniform(95 - 65 * wear, 95)))
    return np.asarray(Image.open(stream).convert("RGB"))


def _resampled(pixels, wear, rng):
    height, width = pixels.shape[:2]
    share = rng.uniform(1 - 0.5 * wear, 1 + 0.3 * wear)
    filters = [CLEAN[i] for i in rng.integers(len(CLEAN), size=2)]
    there = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(there, filters[0]).resize((width, height), filters[1]))
