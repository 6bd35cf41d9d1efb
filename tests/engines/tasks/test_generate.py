"""Words, noise or a picture to pictures: the laws that hold for any weights."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from engines import catalog, tensors
from engines.engine import Engine
from engines.errors import AtelierError, BadPicture, BadRequest, Cancelled
from engines.requests import ORDERS, SAMPLERS, SCHEDULES, alone
from engines.tasks.generate import generate
from tests import tiny
from tests.tiny import png, request


@pytest.fixture(scope="module")
def model():
    return tiny.latent_diffusion()


def drawn(request, model):
    return [np.asarray(picture.image) for picture in generate(request, model).pictures]


def nearly(one, other):
    """Whether two are the same picture, of which some codes at a border may have flipped.

    Products of matrices of another height are summed in another order on some processors.
    """
    return np.abs(one.astype(int) - other).mean() < 2  # levels; between two seeds it is tens


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_draws_and_a_batch_equals_its_singles(model, sampler):
    many = request(sampler=sampler, count=3, variation_strength=0.3)
    together = drawn(many, model)
    assert together[0].shape == (64, 64, 3)
    for index, picture in enumerate(together):
        assert nearly(picture, drawn(alone(many, index), model)[0])
    assert not nearly(together[0], together[1])


@pytest.mark.parametrize("scheduler", SCHEDULES)
def test_each_schedule_draws_its_own_picture_again(model, scheduler):
    first, again = (drawn(request(scheduler=scheduler), model)[0] for _ in range(2))
    assert np.array_equal(first, again)


def test_seeds_count_up(model):
    result = generate(request(count=3, seed=2**32 - 2), model)
    assert [picture.seed for picture in result.pictures] == [2**32 - 2, 2**32 - 1, 0]
    assert nearly(np.asarray(result.pictures[2].image), drawn(request(seed=0), model)[0])


def test_many_pictures_are_drawn_batch_after_batch(model, monkeypatch):
    whole = drawn(request(count=3), model)
    monkeypatch.setattr("engines.tasks.drawing.PIXELS_AT_ONCE", 64 * 64)
    seen = []
    result = generate(request(count=3), model, on_progress=seen.append)
    assert [progress.index for progress in seen] == list(range(1, 10))
    assert {progress.count for progress in seen} == {9}
    for before, after in zip(whole, result.pictures, strict=True):
        assert np.mean(np.abs(before.astype(int) - np.asarray(after.image)) > 2) < 0.01


def test_words_style_and_negative_change_the_picture(model):
    plain = drawn(request(cfg_scale=3.0), model)[0]
    changes = ({"prompt": "blue square"}, {"style": "flat"}, {"negative": "disc"}, {"cfg_scale": 6.0}, {"prompt": "蓝"})
    for change in changes:
        assert not np.array_equal(plain, drawn(request(**{"cfg_scale": 3.0} | change), model)[0])


def test_noise_alone_needs_no_words(model):
    assert drawn(request(prompt="", cfg_scale=1.0), model)[0].std() > 0


def test_variation_goes_from_one_seed_to_the_other(model):
    def at(strength):
        return drawn(request(variation_seed=99, variation_strength=strength), model)[0]

    assert np.array_equal(at(0.0), drawn(request(), model)[0])
    assert np.array_equal(at(1.0), drawn(request(seed=99), model)[0])
    assert not np.array_equal(at(0.5), at(0.0)) and not np.array_equal(at(0.5), at(1.0))


def test_low_strength_stays_near_the_picture(model):
    image = Image.new("RGB", (64, 64), (200, 60, 60))
    x = tensors.from_image(image)
    with torch.no_grad():
        passed = tensors.from_image(tensors.to_images(model.decode(model.encode(x)))[0])

    def distance(strength):
        picture = generate(request(image=png(image), strength=strength, steps=20, sampler="euler"), model).pictures[0]
        return (tensors.from_image(picture.image) - passed).abs().mean().item()

    assert distance(0.05) < distance(1.0)


def test_a_picture_of_another_size_is_fitted(model):
    wide = Image.new("RGB", (200, 90), (10, 200, 60))
    assert drawn(request(image=png(wide), width=64, height=96), model)[0].shape == (96, 64, 3)


def test_broken_bytes_are_refused(model):
    with pytest.raises(BadPicture, match="cannot be read"):
        generate(request(image=b"no picture"), model)


def test_a_prompt_too_long_for_the_model_is_refused(model):
    with pytest.raises(BadRequest, match="prompt has .* tokens.*reads 32"):
        generate(request(prompt="word " * 40), model)


def test_a_size_the_model_cannot_draw_is_refused(model):
    odd = dataclasses.replace(model.config.unet, ch_mult=(1, 2))
    assert odd.size_multiple * model.first_stage.config.factor == model.size_multiple == 8
    with pytest.raises(BadRequest, match="multiple of 32"):
        request(width=72)


def test_alone_is_one_picture_of_the_batch():
    assert alone(request(count=4, seed=5, variation_seed=9), 2) == request(count=1, seed=7, variation_seed=11)


# ---------------------------------------------------------------- by tokens


@pytest.fixture(scope="module")
def tokens_model():
    return tiny.token_generator()


@pytest.mark.parametrize("order", ORDERS)
def test_tokens_draw_and_a_batch_equals_its_singles(tokens_model, order):
    many = request(order=order, count=3, variation_strength=0.3, steps=6)
    together = drawn(many, tokens_model)
    assert together[0].shape == (64, 64, 3) and not np.array_equal(together[0], together[1])
    for index, picture in enumerate(together):
        single = drawn(alone(many, index), tokens_model)[0]
        assert np.mean(np.abs(picture.astype(int) - single) > 2) < 0.01


def test_words_order_and_boldness_change_what_tokens_draw(tokens_model):
    base = {"cfg_scale": 3.0, "steps": 6}
    plain = drawn(request(**base), tokens_model)[0]
    assert np.array_equal(plain, drawn(request(**base), tokens_model)[0])
    for change in (
        {"prompt": "蓝"}, {"style": "flat"}, {"negative": "disc"}, {"cfg_scale": 9.0}, {"order": "confidence"},
        {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}, {"seed": 8}, {"steps": 2},
        {"corrections": 0},
    ):  # fmt: skip
        assert not np.array_equal(plain, drawn(request(**base | change), tokens_model)[0]), change


def test_tokens_vary_from_one_seed_to_the_other(tokens_model):
    def at(strength):
        return drawn(request(variation_seed=99, variation_strength=strength), tokens_model)[0]

    assert np.array_equal(at(0.0), drawn(request(), tokens_model)[0])
    assert np.array_equal(at(1.0), drawn(request(seed=99), tokens_model)[0])
    assert not np.array_equal(at(0.5), at(0.0)) and not np.array_equal(at(0.5), at(1.0))


def test_strength_is_the_share_of_tokens_redrawn(tokens_model, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    source = png(Image.fromarray(noise))
    with torch.no_grad():
        before = tokens_model.encode(tensors.from_image(Image.fromarray(noise)))
    decode, found = tokens_model.decode, {}
    monkeypatch.setattr(tokens_model, "decode", lambda tokens: found.update(last=tokens) or decode(tokens))
    for strength in (0.25, 0.75):
        generate(request(image=source, strength=strength), tokens_model)
        changed = (found["last"] != before).float().mean().item()
        assert 0.7 * strength < changed <= strength


@pytest.mark.parametrize("kind", ["model", "tokens_model"])
def test_progress_has_previews_and_cancel_stops_within_its_step(kind, request):
    model, seen = request.getfixturevalue(kind), []

    def stop_at_two(progress):
        seen.append(progress)
        if progress.index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(tiny.request(steps=6, count=2), model, on_progress=stop_at_two)
    assert [progress.index for progress in seen] == [1, 2]
    assert seen[0].preview.size == (130, 64)


# ---------------------------------------------------------------- when memory is short


@pytest.mark.parametrize("made", [tiny.latent_diffusion(), tiny.token_generator()], ids=["diffusion", "tokens"])
def test_a_picture_for_which_memory_is_short_is_drawn_row_by_row(made, monkeypatch):
    asked = tiny.request(count=2)
    plain = generate(asked, made)
    net = made.unet if made.family == "latent-diffusion" else made.transformer
    forward, rows = net.forward, []

    def short(x, *others, **named):
        rows.append(len(x))
        if len(x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x, *others, **named)

    monkeypatch.setattr(net, "forward", short)
    drawn = generate(asked, made)
    assert rows[0] > 1 and set(rows[1:]) == {1}
    for one, other in zip(plain.pictures, drawn.pictures, strict=True):
        assert np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max() <= 1
    assert plain.note == "" and drawn.note.startswith("Memory was short")


def test_memory_that_is_short_all_the_same_is_one_sentence_and_the_next_picture_is_drawn(tmp_path, monkeypatch):
    tiny.save(tmp_path / "models" / "painter.safetensors", tiny.latent_diffusion())
    engine = Engine(tmp_path, "cpu")
    asked = tiny.request(model="painter")
    (painter,) = [engine.load(row) for row in [catalog.find("painter", home=tmp_path)]]
    with monkeypatch.context() as patch:
        patch.setattr(painter.unet, "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
        with pytest.raises(AtelierError, match="ran out of memory; ask for fewer or smaller"):
            engine.run(asked)
    assert engine.run(asked).pictures
