"""Measures of inpainting: against answers by hand, and from nothing but what is around the mask."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from engines import classical, metrics, tensors
from engines.requests import InpaintResult, Picture
from engines.training import data, restoration
from tests import tiny

SIZE = 64
SAY = {"say": lambda text: None}


def photographs(count=12):
    """One half dark, one half bright, all alike."""
    halves = np.full((SIZE, SIZE, 3), 40, np.uint8)
    halves[:, SIZE // 2 :] = 200
    rows = [data.Example(f"{number}.jpg", halves) for number in range(20 * count)]
    return [example for example in rows if example.held_out][:count]


def test_a_classical_method_measured_as_a_model_gets_its_own_figures(tmp_path):
    examples = tiny.examples(count=60, size=SIZE) + photographs(2)
    figures = restoration.measure(classical.METHODS["telea"], examples, SIZE, tmp_path, **SAY)
    assert set(figures) == {"icons", "photographs"}
    for widths in figures.values():
        assert set(widths) == set(restoration.WIDTHS)
        for painted in widths.values():
            assert set(painted) == {"ours", *restoration.FLOOR, "mean"}
            assert painted["ours"] == painted["Telea"] != painted["Navier-Stokes"]
    text = restoration.described(figures)
    row = figures["photographs"]["wide"]["mean"]
    assert f"| photographs, wide | mean | {row['psnr']:.2f} dB | {row['ssim']:.3f} | {row['perceptual']:.3f} |" in text
    for name in figures:
        assert f"(restored-{name}.webp)" in text and Image.open(tmp_path / f"restored-{name}.webp").width > 6 * SIZE


def test_the_model_sees_nothing_of_what_it_is_to_paint_and_counts_only_there(tmp_path, monkeypatch):
    """A painter of mid-grey: its error at each pixel is known, and what it does elsewhere is not counted."""
    asked = []

    def paint(request, model):
        asked.append([np.asarray(Image.open(io.BytesIO(png))) for png in (request.image, request.mask)])
        grey = np.full((SIZE, SIZE, 3), 120, np.uint8)
        return InpaintResult((Picture(Image.fromarray(grey), 0),), 0.0)

    monkeypatch.setattr(restoration, "inpaint", paint)
    rows = photographs()
    figures = restoration.measure(classical.METHODS["telea"], rows, SIZE, tmp_path, **SAY)
    for picture, mask in asked:
        assert mask.any() and not picture[mask > 0].any()
        assert np.array_equal(picture[mask == 0], rows[0].pixels[mask == 0])
    expected = -20 * np.log10(80 / 255)
    for painted in figures["photographs"].values():
        assert painted["ours"]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_a_blank_that_is_filled_exactly_counts_as_no_error_among_others(tmp_path, monkeypatch):
    rows, painted = photographs(), []

    def paint(request, model):
        pixels = rows[0].pixels if len(painted) % 2 else np.full((SIZE, SIZE, 3), 120, np.uint8)
        painted.append(pixels)
        return InpaintResult((Picture(Image.fromarray(pixels), 0),), 0.0)

    monkeypatch.setattr(restoration, "inpaint", paint)
    monkeypatch.setattr(restoration, "FLOOR", {})
    figures = restoration.measure(classical.METHODS["telea"], rows, SIZE, tmp_path, **SAY)
    expected = -10 * np.log10((80 / 255) ** 2 / 2)
    for widths in figures["photographs"].values():
        assert widths["ours"]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_what_is_equal_has_no_distance_under_the_mask_and_what_is_not_has_it_there_alone():
    draw = np.random.default_rng(0)
    one = draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    other = one.copy()
    other[:, 40:] = draw.integers(0, 256, (SIZE, 24, 3))
    x, y = (tensors.from_image(Image.fromarray(picture)) for picture in (one, other))
    left, right = (torch.zeros(1, 1, SIZE, SIZE, dtype=bool) for _ in range(2))
    left[..., :16], right[..., 48:] = True, True
    perceptual = metrics.RandomPerceptual()
    assert metrics.ssim(x, y, left) == pytest.approx(1, abs=1e-4) and metrics.ssim(x, y, right) < 0.3
    assert perceptual(x, y, left).item() == pytest.approx(0, abs=1e-6)
    assert perceptual(x, y, right).item() > perceptual(x, y).item() > 0
    whole = left | True
    assert perceptual(x, y, whole).item() == pytest.approx(perceptual(x, y).item(), rel=1e-5)
    assert metrics.ssim(x, y, whole) == pytest.approx(metrics.ssim(x, y), abs=1e-5)
