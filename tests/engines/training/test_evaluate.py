"""Cards: what they measure against answers that are known, and that they say it."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from engines import requests
from engines.checkpoints import files, models
from engines.engine import Engine
from engines.errors import BadRequest
from engines.training import data, evaluate, quality
from engines.training.judge import train_judge
from engines.vqgan.autoencoder import VQGAN
from tests import tiny

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as table:
        for example in tiny.examples(count=120, size=SIZE):
            Image.fromarray(example.pixels).save(folder / example.name)
            row = {"file_name": example.name, "text": example.text, "text_zh": example.text_zh, "style": example.style}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def drawer(make):
    model = make()
    model.config = dataclasses.replace(model.config, size=SIZE)
    return model


@pytest.mark.parametrize("make", [tiny.latent_diffusion, tiny.token_generator], ids=["diffusion", "tokens"])
def test_a_card_of_a_model_that_draws(make, folder, tmp_path, monkeypatch):
    for asked in requests.SUITED.values():
        monkeypatch.setitem(asked, "steps", 2)
    monkeypatch.setattr(evaluate, "STYLE_WORDS", ("red disc",))
    monkeypatch.setattr(quality, "train_judge", functools.partial(train_judge, steps=20, batch=8))
    path = tmp_path / "painter.safetensors"
    tiny.save(path, drawer(make), {"licence": "MIT"})
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "about.md").write_text("What nobody measures.", encoding="utf-8")
    figures = evaluate.evaluate(str(path), folder, tmp_path / "card", say=lambda text: None)
    held_out = sum(e.held_out for e in tiny.examples(count=120) if e.style)
    few = min(evaluate.PROMPTS, held_out)
    assert few and (figures["prompts"], figures["held_out_prompts"]) == (evaluate.PROMPTS + few, few)
    card = (tmp_path / "card" / "card.md").read_text(encoding="utf-8")
    assert card.startswith("# painter") and "| licence | MIT |" in card and files.sha256(path) in card
    assert "What nobody measures." in card and f"{figures['loss']['seen']:.4f} on " in card
    drawn = figures["quality"]["distances"]["drawn"]["judge"]
    assert f"| drawn | {drawn['KID']:.3f} | {drawn['MMD']:.3f} |" in card
    wide = figures["restoration"]["icons"]["wide"]["Telea"]
    assert f"| icons, wide | Telea | {wide['psnr']:.2f} dB |" in card
    for name in ("prompts.webp", "styles.webp", "chinese.webp", "nearest.webp", "restored-icons.webp"):
        assert f"({name})" in card
        assert len(Image.open(tmp_path / "card" / name).convert("RGB").getcolors(1 << 20)) > 2


def test_a_card_tells_nothing_of_what_a_model_cannot_do(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "STYLE_WORDS", ("red disc",))
    monkeypatch.setattr(evaluate, "PROMPTS", 2)
    monkeypatch.setattr(quality, "train_judge", functools.partial(train_judge, steps=2, batch=8))
    few, path = tiny.few_steps(), tmp_path / "quick.safetensors"
    few.base.config = dataclasses.replace(few.base.config, size=SIZE)
    few.config = dataclasses.replace(few.config, size=SIZE)
    tiny.save(path, few)
    figures = evaluate.evaluate(str(path), folder, tmp_path / "card", say=lambda text: None)
    card = (tmp_path / "card" / "card.md").read_text(encoding="utf-8")
    assert figures.keys() == {"prompts", "held_out_prompts", "quality"}
    assert "4 steps, guidance 2.5" in card and "## Restoration" not in card and "## Loss" not in card


def test_a_card_of_a_vqgan(folder, tmp_path):
    path = tmp_path / "mirror.safetensors"
    models.save(path, tiny.vqgan(), {})
    figures = evaluate.evaluate(str(path), folder, tmp_path / "card", say=lambda text: None)
    held_out = sum(example.held_out for example in tiny.examples(count=120))
    assert sum(row["pictures"] for row in figures.values()) == held_out
    ours = figures["icons"]["ours"]
    assert ours["bits_per_pixel"] == pytest.approx(math.log2(64) / 16)  # 64 codes, one for 4x4 pixels
    assert f"{ours['psnr']:.2f} dB" in (tmp_path / "card" / "card.md").read_text(encoding="utf-8")
    assert 1 <= figures["icons"]["perplexity"] <= figures["icons"]["codes_used"] <= 64


@pytest.mark.parametrize("codec", evaluate.CODECS)
def test_a_codec_gives_the_best_that_fits(codec):
    y, x = np.mgrid[:SIZE, :SIZE]
    image = Image.fromarray(np.stack([4 * x, 4 * y, 255 - 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8))
    image.paste("black", (10, 10, 30, 40))
    small, few = evaluate._coded(codec, image, 0.6)
    large, many = evaluate._coded(codec, image, 3.0)
    assert few <= 0.6 < many <= 3.0 and small.size == large.size == image.size
    errors = [np.square(np.asarray(z).astype(float) - np.asarray(image)).mean() for z in (large, small)]
    assert errors[0] < errors[1] < np.asarray(image).astype(float).var()  # nearer than one plain colour
    lowest = evaluate._coded(codec, image, 0.0)[1]  # even the lowest quality needs something, and says how much
    assert 0 < lowest <= few


def test_there_is_no_card_of_a_text_encoder(folder, tmp_path):
    models.save(tmp_path / "words.safetensors", tiny.clip_trainer().model, {})
    with pytest.raises(BadRequest, match="no evaluation for clip"):
        evaluate.evaluate(str(tmp_path / "words.safetensors"), folder, tmp_path / "card")


def icons():
    return [example for example in tiny.examples(size=SIZE) if example.style]


def test_the_velocity_loss_of_a_denoiser_that_sees_nothing(monkeypatch):
    """It says 0 whatever it is shown, so its velocity is wrong by x0 / t at each time t."""
    model = drawer(tiny.latent_diffusion)
    monkeypatch.setattr(model, "denoiser", lambda: lambda x, sigma, **words: torch.zeros_like(x))
    x0 = torch.cat([x0 for _, x0, _ in evaluate._batches(model, icons())])
    sigmas = [model.noise.sigma(model.noise.time(torch.tensor(t))).item() for t in np.linspace(0.05, 0.95, 16)]
    expected = np.mean([x0.square().mean().item() * ((1 + s) / s) ** 2 for s in sigmas])
    assert evaluate._velocity_loss(model, icons()) == pytest.approx(expected, rel=1e-4)


def test_the_token_loss_of_a_transformer_that_knows_nothing(monkeypatch):
    model = drawer(tiny.token_generator)
    monkeypatch.setattr(model.transformer, "forward", lambda tokens, hidden, context: torch.zeros(*tokens.shape, 64))
    assert evaluate._token_loss(model, icons()) == pytest.approx(math.log(64), rel=1e-5)


def test_the_second_head_of_a_vqgan_is_measured_at_twice_the_sides(folder, tmp_path, monkeypatch):
    grey = torch.zeros(1, 3, SIZE, SIZE)
    model, decode = tiny.two_headed(), VQGAN.decode
    monkeypatch.setattr(VQGAN, "decode", lambda self, z, larger=False: grey if larger else decode(self, z))
    pictures = evaluate.Folder(folder, Engine(device="cpu"), say=lambda text: None)
    figures, section = evaluate._larger(model, pictures, tmp_path, SIZE)
    errors = [
        np.square(data.middle(e.pixels, SIZE) / 255.0 - 127.5 / 255).mean()
        for e in pictures.examples(SIZE) if e.held_out and e.style
    ]  # fmt: skip
    expected = np.mean([-10 * math.log10(error) for error in errors])
    assert figures["icons"]["second head"]["psnr"] == pytest.approx(expected, abs=0.1)  # bytes are rounded
    assert f"| icons, second head | {figures['icons']['second head']['psnr']:.2f} dB |" in section
    sheet = Image.open(tmp_path / "larger.webp")
    assert sheet.height > 7 * SIZE and sheet.width > 4 * SIZE
    rows = figures["icons"]
    assert rows["second head, latents inexact by 0.2"] == rows["second head"]  # which heeds no latents here
    assert rows["first head, enlarged, latents inexact by 0.2"] != rows["first head, enlarged"]
