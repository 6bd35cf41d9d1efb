"""The language of prompts, and that what is written in it acts as it says."""

import numpy as np
import pytest
import torch

from engines import requests, tensors
from engines.diffusion import guidance
from engines.errors import BadRequest
from engines.requests import choose
from engines.tasks.generate import generate
from engines.text import prompt
from tests import tiny

PLAIN = [
    "[fox:wolf:1.5]", "a red fox, flat", "一只红狐狸，扁平", "what (is) this? [sic", "A button (blood type)", "a{b}c",
    "", "keycap: *",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_plain_words_stand_for_themselves(text):
    assert choose(text, 3) == text
    assert prompt.stages(text) == [(0.0, text)]
    assert prompt.composed(text) == [(text, 1.0)]
    assert prompt.weighted(text) == ([(text, 1.0)] if text else [])


def test_choices_are_drawn_by_the_seed():
    drawn = {choose("{red|blue|green} fox", seed) for seed in range(40)}
    assert drawn == {"red fox", "blue fox", "green fox"}
    assert choose("{red|blue} {fox|{cat|dog}}", 5) == choose("{red|blue} {fox|{cat|dog}}", 5)
    assert {choose("{|very }old", seed) for seed in range(20)} == {"old", "very old"}


def test_schedules_change_at_their_share():
    assert prompt.stages("a [fox:wolf:0.5] in [mud::.25]") == [
        (0.0, "a fox in mud"), (0.25, "a fox in "), (0.5, "a wolf in ")
    ]  # fmt: skip


def test_prompts_are_joined_by_and():
    assert prompt.composed("a fox AND a tree:0.5 AND mud:-1") == [("a fox", 1.0), ("a tree", 0.5), ("mud", -1.0)]
    assert prompt.composed("sand and SANDY") == [("sand and SANDY", 1.0)]


def test_weights_are_of_their_words():
    assert prompt.weighted("a (red:1.3) fox [tail]") == [
        ("a ", 1.0), ("red", 1.3), (" fox ", 1.0), ("tail", pytest.approx(1 / 1.1))
    ]  # fmt: skip


def test_loras_are_no_words_and_their_weights_add_up():
    assert prompt.loras("a red fox") == ("a red fox", {})
    assert prompt.loras("<lora:ink v1.5>a <lora:oil:-.5>fox<lora:ink v1.5: 0.25 >") == (
        "a fox", {"ink v1.5": 1.25, "oil": -0.5}
    )  # fmt: skip
    for strange in ("<lora:ink:high>", "<lora:ink", "<lora::1>", "a <lora:{ink|oil}:1>"):
        with pytest.raises(BadRequest, match="written otherwise: <lora:name:0.8>"):
            prompt.loras(strange)


def test_embeddings_are_signs_that_other_marks_let_be():
    names = ["ink", "ink-2", "my (old) one"]
    ink, second, old = (chr(prompt.SIGNS + place) for place in range(3))
    assert prompt.signed("a fox, embedding: ink", names) == ("a fox, embedding: ink", {})
    assert prompt.signed("(embedding:ink-2:1.2) embedding:ink, embedding:inks", names) == (
        f"({second}:1.2) {ink}, embedding:inks", {ink: "ink", second: "ink-2"}
    )  # fmt: skip
    text, signs = prompt.signed("[embedding:my (old) one:fox:0.5]", names)
    assert prompt.stages(text) == [(0.0, old), (0.5, "fox")] and signs == {old: "my (old) one"}


# ---------------------------------------------------------------- what it does


@pytest.mark.parametrize("marked, plain", [
    ("a (red:1.3) disc, flat", "a red disc, flat"), ("(一只:0.5)红狐狸", "一只红狐狸"), ("[a] b (c:2), d", "a b c, d"),
])
def test_pieces_have_the_tokens_of_the_whole(marked, plain):
    tokenizer = tiny.latent_diffusion().tokenizer
    pieces = prompt.weighted(marked)
    if "一" not in plain:  # Chinese has no spaces, and pieces are words of their own
        assert np.array_equal(tokenizer.encode([pieces]), tokenizer.encode([plain]))
    weights, ids = tokenizer.weights([pieces])[0], tokenizer.encode([pieces])[0]
    assert weights[0] == 1 and (weights[ids == tokenizer.end_token] == 1).all() and (weights != 1).any()


def test_a_weight_of_nothing_is_silence_and_of_one_no_change():
    model = tiny.latent_diffusion()
    full, none, silent = (model.words([text])["context"] for text in ("red", [("red", 0.0)], ""))
    assert torch.equal(model.words([[("red", 1.0)]])["context"], full)
    spoken = slice(1, model.tokenizer.count("red") - 1)
    assert torch.allclose(none[:, spoken], silent[:, spoken]) and not torch.allclose(full, silent)
    half = model.words([[("red", 0.5)]])["context"]
    assert torch.allclose(half[:, spoken], (full + silent)[:, spoken] / 2, atol=1e-6)


def test_directions_of_prompts_are_added():
    x, sigma = torch.zeros(2, 1, 2, 2), torch.ones(2)

    def model(x, sigma, push):
        return x + push.view(-1, 1, 1, 1)

    def of(value):
        return {"push": torch.full((2,), value)}

    for scale in (1.0, 3.0):
        said = guidance.guided(model, [(of(5.0), 1.0), (of(2.0), 0.5)], of(1.0), scale)(x, sigma)
        assert torch.allclose(said, torch.full_like(x, 1 + scale * ((5 - 1) + 0.5 * (2 - 1))))
    batch = tensors.batched([(of(5.0), 1.0), (of(2.0), 0.5)], of(1.0))["push"]
    assert batch.tolist() == [5, 5, 2, 2, 1, 1]


@pytest.mark.parametrize("model", [tiny.latent_diffusion(), tiny.token_generator()], ids=["diffusion", "tokens"])
class TestPictures:
    def drawn(self, model, text, **fields):
        request = tiny.request(prompt=text, steps=4, seed=5, **fields)
        return [np.asarray(picture.image) for picture in generate(request, model).pictures]

    def test_a_prompt_with_itself_at_half_weight_is_itself(self, model):
        (one,) = self.drawn(model, "red disc")
        (two,) = self.drawn(model, "red disc:0.5 AND red disc:0.5")
        assert np.abs(one.astype(int) - two).max() <= (1 if model.family == "latent-diffusion" else 0)

    def test_a_schedule_from_the_first_step_is_its_second_word(self, model):
        assert np.array_equal(self.drawn(model, "[red:blue:0] disc"), self.drawn(model, "blue disc"))
        assert np.array_equal(self.drawn(model, "[red:blue:1] disc"), self.drawn(model, "red disc"))
        late = self.drawn(model, "[red:blue:0.5] disc")
        assert not np.array_equal(late, self.drawn(model, "red disc"))
        assert not np.array_equal(late, self.drawn(model, "blue disc"))

    def test_each_picture_has_its_own_choice(self, model):
        batch = self.drawn(model, "{red|blue|green|white} disc", count=3)
        for index, picture in enumerate(batch):
            words = choose("{red|blue|green|white} disc", 5 + index)
            request = tiny.request(prompt=words, steps=4, seed=5 + index)
            assert np.array_equal(picture, np.asarray(generate(request, model).pictures[0].image))


def test_the_record_holds_what_was_chosen():
    request = requests.GenerateRequest(prompt="{red|blue} disc", seed=3, count=2)
    for index in range(2):
        assert requests.alone(request, index).prompt == choose("{red|blue} disc", 3 + index)
