"""Tokens out of hidden ones in a few parallel steps (MaskGIT; Chang et al., 2022, section 3.2).

Each step guesses every hidden token, keeps the guesses that come first in the order, and hides the rest
again. Training hides by the same schedule.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch

from engines import tensors

PART = 4  # one place in so many is told anew by a corrector step
RESTLESSNESS = 4.5  # of the confidence order: how much chance it has at first (MaskGIT's code)


@dataclass(frozen=True)
class Step:
    """Step `index` of `count` is done: `tokens (B, h, w)` holds every guess, `hidden` is where one is not kept."""

    index: int
    count: int
    tokens: torch.Tensor
    hidden: torch.Tensor


def hidden_share(time):
    """Share of the tokens that is hidden at `time` in [0, 1], falling from 1 to 0: the cosine of MaskGIT."""
    return math.cos(math.pi / 2 * time)


def hidden_counts(totals, steps):
    """How many of `totals (B,)` hidden tokens are still hidden after each step: `(steps, B)` int64, the last row 0."""
    shares = torch.tensor([hidden_share(step / steps) for step in range(1, steps)] + [0.0], dtype=torch.float64)
    return (shares[:, None] * totals[None].double()).floor().long()


def hide(places, times):
    """Which tokens a batch hides in training `(B, N)` bool: the lowest of `places (B, N)`, at least one.

    How many is the share at the picture's time, of `times (B,)` in [0, 1].
    """
    counts = [max(1, round(hidden_share(time) * places.shape[1])) for time in times]
    return places.argsort(1).argsort(1) < torch.tensor(counts)[:, None]


@functools.cache
def halton_order(height, width):
    """The rank of each place `(height * width,)` int64 in the two-dimensional Halton sequence of bases 2 and 3.

    Neighbours in the sequence are far apart, so that tokens kept in one step know little of each other
    (Besnier et al., 2025). Places that the sequence meets again are passed over.
    """
    ranks = torch.full((height * width,), -1)
    rank = index = 0
    while rank < len(ranks):
        index += 1
        place = int(_radical_inverse(index, 2) * height) * width + int(_radical_inverse(index, 3) * width)
        if ranks[place] < 0:
            ranks[place] = rank
            rank += 1
    return ranks


def _radical_inverse(index, base):
    # the digits of `index` mirrored at the point
    value, share = 0.0, 1.0
    while index:
        share /= base
        value += share * (index % base)
        index //= base
    return value


def by_confidence(scores, chance, time):
    """The surest guesses first, with chance that dies away (MaskGIT, 3.2): keys `(B, N)`, the highest kept first."""
    return scores + RESTLESSNESS * (1 - time) * chance


def by_halton(height, width):
    """An order function like `by_confidence` that follows the Halton sequence instead."""
    ranks = halton_order(height, width)

    def order(scores, chance, time):
        return -ranks.to(scores).expand_as(scores)

    return order


class Chance:
    """Gumbel noise of a batch: each picture's from its own seed alone, whatever the batch and the device.

    With `strength` > 0 that share of the places, spread by the Halton sequence, draws from the variation
    seeds instead: 0 is the picture of `seeds`, 1 that of `variation_seeds`.
    """

    def __init__(self, seeds, height, width, variation_seeds=None, strength=0.0):
        self.places = height * width
        self.generators = [tensors.generator(seed) for seed in seeds]
        self.others = [tensors.generator(seed) for seed in variation_seeds] if strength else None
        self.varied = halton_order(height, width) < round(strength * self.places)

    def gumbel(self, channels):
        """`(B, N, channels)` from the next numbers of the generators."""
        noise = self._uniform(self.generators, channels)
        if self.others:
            noise = torch.where(self.varied[:, None], self._uniform(self.others, channels), noise)
        return -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))

    def _uniform(self, generators, channels):
        return torch.stack([torch.rand(self.places, channels, generator=generator) for generator in generators])


def decode(
    model, tokens, hidden, chance, *, steps, corrections=0, order=by_confidence, temperature=1.0, top_k=0,
    top_p=1.0, callback=None,
):  # fmt: skip
    """The map `tokens (B, h, w)` with the places of `hidden (B, h, w)` bool filled; the others never change.

    `model(tokens, hidden) -> logits (B, h, w, n_embed)`. A guess is drawn as `guess` does. So many
    `corrections` follow, as in `correct`. `chance` is a `Chance` of the same pictures. `callback(Step)` is called after
    each step.
    """
    chosen = hidden
    counts = hidden_counts(hidden.flatten(1).sum(1).cpu(), steps).to(tokens.device)
    for step in range(steps):
        logits = model(tokens, hidden).float()
        scores = logits.flatten(1, 2).log_softmax(-1)
        guesses = guess(scores, chance.gumbel(scores.shape[-1]).to(scores), temperature, top_k, top_p)
        scores = scores.gather(-1, guesses[..., None])[..., 0]
        tokens = torch.where(hidden, guesses.view_as(tokens), tokens)
        keys = order(scores, chance.gumbel(1)[..., 0].to(scores), (step + 1) / steps)
        keys = keys.masked_fill(~hidden.flatten(1), math.inf)
        # what comes last in the order is hidden again
        ranks = keys.argsort(dim=1, stable=True).argsort(dim=1)
        hidden = (ranks < counts[step][:, None]).view_as(hidden)
        if callback:
            callback(Step(step + 1, steps + corrections, tokens, hidden))
    for step in range(corrections):
        tokens = correct(model, tokens, chosen, step)
        if callback:
            callback(Step(steps + step + 1, steps + corrections, tokens, hidden))
    return tokens


def correct(model, tokens, chosen, step):
    """The map after a corrector step: places of `chosen` told anew from all the others, by their likeliest code.

    What was kept early knew little of what came after, and is wrong where the rest speaks against it. A
    step hides one place in `PART`, spread by the Halton sequence, the next step others: Gibbs sampling
    without its chance (corrector steps; Campbell et al., 2022).
    """
    height, width = tokens.shape[1:]
    again = chosen & (halton_order(height, width) % PART == step % PART).view(height, width).to(chosen.device)
    return torch.where(again, model(tokens, again).argmax(-1), tokens)


def guess(scores, gumbel, temperature=1.0, top_k=0, top_p=1.0):
    """A code `(...)` of the logarithms `scores (..., n_embed)` of how likely each is, and of Gumbel noise as large.

    It is drawn at `temperature` (0 takes the likeliest) from the `top_k` most likely codes (0 is all), and of them from
    as few of the likeliest as make up the share `top_p` (Holtzman et al., 2020).
    """
    if top_k:
        best = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
        scores = torch.full_like(scores, -math.inf).scatter(-1, best.indices, best.values)
    if top_p < 1 and temperature:
        shares, codes = (scores / temperature).softmax(-1).sort(descending=True, stable=True)
        rest = shares.cumsum(-1) - shares >= top_p  # those before it are enough
        scores = scores.masked_fill(torch.zeros_like(rest).scatter(-1, codes, rest), -math.inf)
    # The highest of logits and Gumbel noise is a sample of their softmax.
    return (scores + temperature * gumbel).argmax(-1)


def guided(model, cond, uncond, cfg_scale):
    """A `model(tokens, hidden) -> logits` that leans away from `uncond` towards `cond`; `cfg_scale` 1 is off.

    Classifier-free guidance on logits (Chang et al., 2023, section 2.7). `cond` and `uncond` hold the
    model's extra arguments, tensors batched like the tokens; `cond` may be a list of `(cond, weight)`, as in
    `diffusion.guidance`.
    """
    conds = cond if isinstance(cond, list) else [(cond, 1.0)]
    alone = conds[0][0] if len(conds) == 1 and conds[0][1] == 1 else None

    def logits(tokens, hidden):
        if alone is not None and cfg_scale == 1:
            return model(tokens, hidden, **alone)
        told, times = tensors.batched(conds, uncond), len(conds) + 1
        outputs = model(torch.cat([tokens] * times), torch.cat([hidden] * times), **told)
        positive, negative = tensors.added(outputs, conds)
        return negative + cfg_scale * (positive - negative)

    return logits


def by_stages(models, steps):
    """A `model(tokens, hidden)` that is another from some share of the steps on; `models` are `(share, model)`.

    It is to be asked once a step, as `decode` does.
    """
    begins, asked = [(round(share * steps), model) for share, model in models], itertools.count()

    def logits(tokens, hidden):
        step = next(asked)
        return [model for begin, model in begins if begin <= step][-1](tokens, hidden)

    return logits
