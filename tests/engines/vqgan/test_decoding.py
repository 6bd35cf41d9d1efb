"""Decoding tokens: laws that hold for any model, and models for which the answer is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.vqgan.decoding import (
    Chance,
    by_confidence,
    by_halton,
    correct,
    decode,
    guided,
    halton_order,
    hidden_counts,
    hidden_share,
    hide,
)  # fmt: skip

N_EMBED = 12
ORDERS = {"confidence": by_confidence, "halton": by_halton(4, 6)}


def model(tokens, hidden):
    """Any model: logits that depend on all known tokens, each picture for itself."""
    known = tokens.masked_fill(hidden, -1).flatten(1).double()
    weights = torch.arange(1, known.shape[1] + 1, dtype=torch.float64)
    mood = torch.sin(known * weights).sum(1)[:, None, None, None]
    places = torch.arange(1, known.shape[1] + 1).view(1, *tokens.shape[1:], 1)
    return 2 * torch.sin(mood + places * torch.arange(1, N_EMBED + 1)).float()


def start(count=3, height=4, width=6, share=0.6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, N_EMBED, (count, height, width), generator=draw)
    return tokens, torch.rand(tokens.shape, generator=draw) < share


def filled(tokens, hidden, seeds, order="confidence", steps=5, **options):
    chance = Chance(seeds, *tokens.shape[1:])
    return decode(model, tokens, hidden, chance, steps=steps, order=ORDERS[order], **options)


@given(st.integers(1, 12), st.floats(0, 1), st.sampled_from(sorted(ORDERS)), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_known_tokens_never_change(steps, share, order, seed):
    tokens, hidden = start(share=share, seed=seed)
    steps_seen = []
    found = filled(tokens, hidden, [1, 2, 3], order, steps, corrections=3, callback=steps_seen.append)
    for seen in (found, *(step.tokens for step in steps_seen)):
        assert torch.equal(seen[~hidden], tokens[~hidden])
    assert not steps_seen[-1].hidden.any() and found.max() < N_EMBED


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_all_known_comes_back(order):
    tokens, _ = start()
    assert torch.equal(filled(tokens, torch.zeros_like(tokens, dtype=torch.bool), [1, 2, 3], order, steps=1), tokens)


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_equals_its_singles(order):
    tokens, hidden = start()
    together = filled(tokens, hidden, [5, 6, 7], order, corrections=3)
    for i, seed in enumerate([5, 6, 7]):
        single = filled(tokens[i : i + 1], hidden[i : i + 1], [seed], order, corrections=3)
        assert torch.equal(together[i : i + 1], single)
    assert not torch.equal(together, filled(tokens, hidden, [8, 9, 10], order))


@pytest.mark.parametrize("order", ORDERS)
def test_each_step_hides_what_the_schedule_says_and_keeps_what_it_kept(order):
    tokens, hidden = start(share=0.8)
    seen = []
    filled(tokens, hidden, [1, 2, 3], order, steps=6, callback=seen.append)
    expected = hidden_counts(hidden.flatten(1).sum(1), 6)
    assert [step.index for step in seen] == [1, 2, 3, 4, 5, 6] and {step.count for step in seen} == {6}
    before, known = hidden, tokens
    for step, counts in zip(seen, expected, strict=True):
        assert torch.equal(step.hidden.flatten(1).sum(1), counts)
        assert not (step.hidden & ~before).any()
        assert torch.equal(step.tokens[~before], known[~before])
        before, known = step.hidden, step.tokens


def test_the_schedule_is_the_cosine_of_the_paper():
    assert [hidden_share(time) for time in (0, 1 / 3, 1 / 2, 2 / 3)] == pytest.approx(
        [1, math.sqrt(3) / 2, math.sqrt(0.5), 0.5]
    )
    assert hidden_counts(torch.tensor([256, 10, 0]), 3).tolist() == [[221, 8, 0], [128, 5, 0], [0, 0, 0]]


def test_training_hides_by_the_same_schedule():
    places = torch.rand(3, 24, generator=torch.Generator().manual_seed(0))
    hidden = hide(places, [0.0, 2 / 3, 1.0])
    assert hidden.sum(1).tolist() == [24, 12, 1]  # at least one, or there would be nothing to learn
    for row, places_of_row in zip(hidden[1:], places[1:], strict=True):
        assert places_of_row[row].max() < places_of_row[~row].min()


def test_guesses_are_samples_of_the_model():
    """Independent places in one step: frequencies are the softmax at the temperature."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])

    def fixed(tokens, hidden):
        return logits.expand(*tokens.shape, 4)

    tokens = torch.zeros(8, 40, 40, dtype=torch.long)
    for temperature in (1.0, 2.0):
        chance = Chance(range(8), 40, 40)
        found = decode(fixed, tokens, tokens == 0, chance, steps=1, temperature=temperature)
        frequencies = found.flatten().bincount(minlength=4) / found.numel()
        assert torch.allclose(frequencies, (logits / temperature).softmax(0), atol=0.015)
    # the likeliest have the shares 0.64, 0.24, 0.09 and 0.03
    for options, many in (({"top_k": 2}, 2), ({"top_p": 0.64}, 1), ({"top_p": 0.7}, 2), ({"top_p": 0.9}, 3)):
        some = decode(fixed, tokens, tokens == 0, Chance(range(8), 40, 40), steps=1, **options)
        frequencies = some.flatten().bincount(minlength=4) / some.numel()
        assert torch.allclose(frequencies, torch.cat([logits[:many].softmax(0), torch.zeros(4 - many)]), atol=0.015)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.01}])
def test_without_chance_the_likeliest_code_is_taken(options):
    tokens, hidden = start(share=1.1)
    assert torch.equal(filled(tokens, hidden, [1, 2, 3], steps=1, **options), model(tokens, hidden).argmax(-1))


def test_corrections_tell_every_chosen_place_once_a_round_from_the_others():
    tokens, chosen = start(share=0.7)
    asked = []

    def heard(tokens, hidden):
        asked.append(hidden)
        return model(tokens, hidden)

    found = tokens
    for step in range(4):
        before, found = found, correct(heard, found, chosen, step)
        assert torch.equal(found[~asked[step]], before[~asked[step]])
        assert torch.equal(found[asked[step]], model(before, asked[step]).argmax(-1)[asked[step]])
    assert torch.equal(torch.stack(asked).sum(0), chosen.int())


def test_corrections_remove_what_the_rest_speaks_against():
    """A model that says what most of the known tokens are: specks go, but for those that were given."""

    def majority(tokens, hidden):
        counts = torch.nn.functional.one_hot(tokens, 2).masked_fill(hidden[..., None], 0).sum((1, 2))
        return counts[:, None, None].float().expand(*tokens.shape, 2)

    specks = (torch.arange(24) % 5 == 0).long().view(1, 4, 6)
    given = torch.zeros_like(specks, dtype=torch.bool)
    given[0, 0, :3] = True
    found, seen = specks, []
    for step in range(4):
        found = correct(majority, found, ~given, step)
    assert torch.equal(found, specks * given) and (specks * given).any()
    decode(majority, specks, ~given, Chance([0], 4, 6), steps=2, corrections=4, temperature=100.0, callback=seen.append)
    assert [(step.index, step.count) for step in seen] == [(index, 6) for index in range(1, 7)]
    assert (seen[1].tokens != specks * given).any() and torch.equal(seen[-1].tokens, specks * given)


def test_steps_let_places_agree():
    """Two places that must be equal, either code as likely: one step guesses them apart, two steps never do."""

    def twins(tokens, hidden):
        logits = torch.zeros(*tokens.shape, 2)
        for place, other in ((0, 1), (1, 0)):
            sure = torch.nn.functional.one_hot(tokens[..., other], 2) * 50.0
            logits[..., place, :] = torch.where(hidden[..., other, None], logits[..., place, :], sure)
        return logits

    tokens = torch.zeros(400, 1, 2, dtype=torch.long)
    for steps, disagreeing in ((1, 0.5), (2, 0.0), (8, 0.0)):
        found = decode(twins, tokens, tokens == 0, Chance(range(400), 1, 2), steps=steps)
        assert (found[..., 0] != found[..., 1]).float().mean().item() == pytest.approx(disagreeing, abs=0.1)
        assert found[..., 0].float().mean().item() == pytest.approx(0.5, abs=0.1)
        if steps > 1:
            assert torch.equal(found[..., 0], found[..., 1])


def test_a_sure_guess_is_kept_before_an_unsure_one():
    """One place is certain and the others are not: with chance gone it is the first to stay."""

    def one_sure(tokens, hidden):
        logits = torch.zeros(*tokens.shape, 4)
        logits[:, 0, 2, 3] = 60.0
        return logits

    tokens = torch.zeros(20, 1, 6, dtype=torch.long)
    seen = []
    decode(one_sure, tokens, tokens == 0, Chance(range(20), 1, 6), steps=60, callback=seen.append)
    assert (seen[-1].tokens[:, 0, 2] == 3).all()
    keys = by_confidence(torch.tensor([[-3.0, 0.0, -3.0]]), torch.zeros(1, 3), 0.5)
    assert keys.argmax() == 1
    assert by_confidence(torch.zeros(1, 2), torch.tensor([[0.0, 9.0]]), 1.0).diff().item() == 0  # no chance at the end


def test_the_halton_sequence_starts_as_in_the_book():
    """Bases 2 and 3: (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9), on a grid of 8 x 9."""
    order = halton_order(8, 9).view(8, 9)
    assert [order[4, 3], order[2, 6], order[6, 1], order[1, 4]] == [0, 1, 2, 3]


@given(st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_the_halton_order_visits_every_place_once(height, width):
    assert halton_order(height, width).sort().values.tolist() == list(range(height * width))


def test_the_halton_order_spreads():
    order = halton_order(16, 16).view(16, 16)
    for first in (16, 64):
        kept = (order < first).view(4, 4, 4, 4).sum((1, 3))
        assert kept.min() >= first // 16 - 1 and kept.max() <= first // 16 + 2


def test_guidance_is_a_line_through_both_predictions():
    tokens, hidden = start()

    def words(tokens, hidden, context):
        return model(tokens, hidden) * context[:, :1, None, None].float()

    cond, uncond = {"context": torch.full((3, 1), 2.0)}, {"context": torch.full((3, 1), 1.0)}
    plain = words(tokens, hidden, **cond)
    assert torch.equal(guided(words, cond, uncond, 1.0)(tokens, hidden), plain)
    expected = 1 * model(tokens, hidden) + 3.0 * (2 - 1) * model(tokens, hidden)
    assert torch.allclose(guided(words, cond, uncond, 3.0)(tokens, hidden), expected, atol=1e-5)


def test_variation_goes_from_one_seed_to_the_other():
    tokens, hidden = start(1, share=1.1)

    def at(strength):
        chance = Chance([1], 4, 6, [2], strength)
        return decode(model, tokens, hidden, chance, steps=4)

    assert torch.equal(at(0.0), filled(tokens, hidden, [1], steps=4))
    assert torch.equal(at(1.0), filled(tokens, hidden, [2], steps=4))
    assert not torch.equal(at(0.5), at(0.0)) and not torch.equal(at(0.5), at(1.0))


def test_chance_is_gumbel_s():
    noise = Chance(range(50), 20, 20).gumbel(10)
    assert noise.shape == (50, 400, 10) and torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
