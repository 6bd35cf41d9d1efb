"""Measures of upscalers: Lanczos as a model gets its own figures, and what is better gets better ones."""

import numpy as np
import pytest
from PIL import Image

from engines import classical
from engines.requests import GenerateResult, Picture
from engines.training import data, enlargement
from tests import tiny

SAY = {"say": lambda text: None}


def photographs(count=8):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(pixels).resize((300, 280), Image.Resampling.BICUBIC))
    rows = [data.Example(f"{number}.jpg", large) for number in range(30 * count)]
    return [example for example in rows if example.held_out][:count]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(enlargement, "PICTURES", 3)


def test_lanczos_measured_as_a_model_gets_its_own_figures(tmp_path):
    examples = tiny.examples(count=60, size=enlargement.SIDE) + photographs()
    figures = enlargement.measure(classical.METHODS["lanczos"], examples, tmp_path, **SAY)
    assert set(figures) == {"icons", "photographs"}
    for kinds in figures.values():
        assert set(kinds) == {"x2 clean", "x2 worn", "x4 clean", "x4 worn"}
        for made in kinds.values():
            for name in ("psnr", "ssim", "perceptual"):
                assert made["faithful"][name] == made["with detail"][name] == made["Lanczos"][name]
        assert kinds["x2 clean"]["Lanczos"]["psnr"] > kinds["x4 clean"]["Lanczos"]["psnr"]
        assert kinds["x2 clean"]["Lanczos"]["psnr"] > kinds["x2 worn"]["Lanczos"]["psnr"]
    row = figures["photographs"]["x4 worn"]["Lanczos"]
    assert f"| photographs, x4 worn | Lanczos | {row['psnr']:.2f} dB |" in enlargement.described(figures)
    assert Image.open(tmp_path / "enlarged-photographs.webp").width > 5 * enlargement.SIDE


def test_a_perfect_answer_is_seen_as_one_and_the_model_is_told_how_worn_it_is(tmp_path, monkeypatch):
    true, rows, told = enlargement.upscale, photographs(), []
    model = tiny.upscaler()

    def perfect(request, asked):
        if asked is not model:
            return true(request, asked)
        told.append((request.scale, request.denoise, request.detail))
        return GenerateResult((Picture(Image.fromarray(data.middle(rows[0].pixels, enlargement.SIDE)), 0),), 0.0)

    monkeypatch.setattr(enlargement, "upscale", perfect)
    figures = enlargement.measure(model, rows, tmp_path, **SAY)
    for made in figures["photographs"].values():
        assert made["faithful"]["psnr"] == np.inf and made["faithful"]["perceptual"] == 0
        assert made["Lanczos"]["psnr"] < 60
    assert set(told) == {(scale, wear, detail) for scale in (2, 4) for wear in (0, 0.5) for detail in (0, 0.5)}
