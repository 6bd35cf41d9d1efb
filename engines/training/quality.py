"""Measures of models that draw, which do not flatter: each beside what real pictures get, and shown to move.

Everything comes from fixed seeds: the same pictures and weights give the same numbers on one machine.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from engines import metrics, requests, tensors
from engines.tasks.generate import generate
from engines.text.captions import compose
from engines.training import data
from engines.training.judge import train_judge

PROMPTS = 256  # held-out captions that are drawn
FEWEST = 8  # held-out captions; below, there is nothing to measure on
SEEN = 1000  # training pictures that stand for all, evenly taken
LADDER = {
    "noise 0.1": lambda x, n: x + 0.1 * n,
    "noise 0.2": lambda x, n: x + 0.2 * n,
    "noise 0.4": lambda x, n: x + 0.4 * n,
    "blur 2": lambda x, n: _blurred(x, 2),
    "blur 4": lambda x, n: _blurred(x, 4),
    "blur 8": lambda x, n: _blurred(x, 8),
}


@dataclass(frozen=True)
class Bench:
    """The pictures, the judge and the features that every model is measured by."""

    seen: list  # of `data.Example`
    held_out: list
    judge: torch.nn.Module
    spaces: dict  # name: function from pictures (B, 3, H, W) to features (B, D)
    size: int


def bench(examples, size, device="cpu", say=print):
    """The `Bench` of a folder's icons: those that models learn from, those held out, and a judge of the first."""
    icons = [e for e in examples if e.text and e.style in requests.STYLES]
    seen = [e for e in icons if not e.held_out]
    held_out = [e for e in icons if e.held_out]

    def report(step, steps):
        if step % max(1, steps // 10) == 0:
            say(f"the judge learns: step {step} of {steps}")

    judge = train_judge(icons, device=device, report=report).cpu()  # where the pictures are
    random = metrics.RandomPerceptual()
    spaces = {"judge": judge.features, "random network": lambda x: _statistics(random, x)}
    return Bench(data.evenly(seen, SEEN), held_out, judge, spaces, size)


def _statistics(network, x):
    # mean and spread of every channel of every stage: texture and colour, wherever they are
    return torch.cat([part for m in network.features(x) for part in (m.mean((2, 3)), m.std((2, 3)))], dim=1)


@torch.no_grad()
def measure(bench, model, say=print):
    """The figures of one model that draws, as nested dicts of numbers; None where captions are fewer than `FEWEST`."""
    if len(bench.held_out) < FEWEST:
        return None
    prompts = data.evenly(bench.held_out, PROMPTS)
    pictures, seconds = _drawn(model, [compose(e.text, e.style) for e in prompts], bench.size, say)
    chinese = [e for e in prompts if e.text_zh]
    in_chinese, _ = _drawn(model, [compose(e.text_zh, e.style) for e in chinese], bench.size, say)
    seen, real = _real(bench.seen, bench.size), _real(prompts, bench.size)
    figures = {
        "prompts": len(prompts),
        "seconds a picture": seconds,
        "answers": {
            "English": _answers(bench.judge, pictures, prompts),
            "Chinese": _answers(bench.judge, in_chinese, chinese),
            "the real pictures": _answers(bench.judge, real, prompts),
        },
        "distances": {},
        "copying": _copying(bench.spaces["judge"], pictures, real, seen),
    }
    noise = tensors.noise(range(len(real)), real.shape[1:])
    sets = {"drawn": pictures, "floor: the real pictures": real}
    sets |= {name: spoil(real, noise).clamp(-1, 1) for name, spoil in LADDER.items()}
    for space, features in bench.spaces.items():
        library = features(seen)
        known = _standard(library, library)
        for name, x in sets.items():
            made = _standard(features(x), library)
            precision, recall = metrics.precision_and_recall(made, known)
            figures["distances"].setdefault(name, {})[space] = {
                "KID": metrics.kid(made, known),
                "MMD": metrics.mmd(made, known),
                "precision": precision,
                "recall": recall,
            }
    return figures


def _drawn(model, prompts, size, say):
    """Pictures `(N, 3, size, size)` of the prompts, seeds counting up from 0, and the seconds that one takes."""
    rows, started = [], time.perf_counter()
    for seed, prompt in enumerate(prompts):
        rows.append(tensors.from_image(draw(model, prompt, size, seed=seed)[0]))
        if (seed + 1) % 16 == 0:
            say(f"drawn: {seed + 1} of {len(prompts)}")
    taken = (time.perf_counter() - started) / max(1, len(rows))
    return torch.cat(rows) if rows else torch.zeros(0, 3, size, size), taken


def draw(model, prompt, size, *, seed=0, count=1):
    """Pictures of a prompt, with seeds counting up from `seed`, as `requests.SUITED` says for the model's family."""
    suited = requests.SUITED[model.family]
    request = requests.GenerateRequest(prompt=prompt, seed=seed, count=count, width=size, height=size, **suited)
    return [picture.image for picture in generate(request, model).pictures]


def _real(examples, size):
    """The icons as they are, on white."""
    return tensors.from_bytes(torch.from_numpy(np.stack([data.middle(e.pixels, size) for e in examples])))


def _answers(judge, pictures, examples):
    """How often the judge sees what was asked for, of the captions that it knows, and in which style."""
    numbers = {text: i for i, text in enumerate(judge.concepts)}
    known = [i for i, e in enumerate(examples) if e.text in numbers]
    if not known:
        return {"pictures": 0}
    concept, style = judge(pictures[known])
    concepts = torch.tensor([numbers[examples[i].text] for i in known])
    styles = torch.tensor([list(requests.STYLES).index(examples[i].style) for i in known])
    return {
        "pictures": len(known),
        "R@1": metrics.found(concept, concepts),
        "R@5": metrics.found(concept, concepts, 5),
        "style": metrics.found(style, styles),
    }


def _copying(features, pictures, real, seen):
    """How near the nearest training picture is, against the second nearest; 1 is no nearer, 0 a copy."""
    library = features(seen)
    rows = {}
    for name, x in (("drawn", pictures), ("the real pictures", real)):
        # by differences: as products of vectors, the small distance of a copy drowns in rounding
        distances = torch.cdist(features(x), library, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.topk(2, largest=False).values
        rows[name] = {
            "distance": nearest[:, 0].mean().item(),
            "share of the second": (nearest[:, 0] / nearest[:, 1].clamp(min=1e-9)).mean().item(),
        }
    return rows


def _standard(features, reference):
    return (features - reference.mean(0)) / reference.std(0).clamp(min=1e-6)


def _blurred(x, factor):
    small = F.avg_pool2d(x, factor)
    return F.interpolate(small, size=x.shape[-2:], mode="bilinear")


def table(figures):
    """The figures as Markdown."""
    if figures is None:
        return "There are too few held-out pictures with captions to measure on.\n"
    answered = ("R@1", "R@5", "style")
    answers = "\n".join(
        f"| {name} | {row['pictures']} | " + " | ".join(_share(row[cell], row["pictures"]) for cell in answered) + " |"
        for name, row in figures["answers"].items()
        if row["pictures"]
    )
    cells = ("KID", "MMD", "precision", "recall")
    spaces = list(next(iter(figures["distances"].values())))
    head = " | ".join(f"{cell}, {space}" for space in spaces for cell in cells)
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{row[space][cell]:.3f}" for space in spaces for cell in cells) + " |"
        for name, row in figures["distances"].items()
    )
    copying = "\n".join(
        f"| {name} | {row['distance']:.2f} | {row['share of the second']:.2f} |"
        for name, row in figures["copying"].items()
    )
    return (
        f"{figures['prompts']} held-out captions, one picture each. A judge, a classifier that learned from the same "
        "training pictures and is part of no loss, says what a picture shows and in which style; the last row is what "
        "it makes of the real ones. Behind ± stands the standard error of so many pictures.\n\n"
        f"| pictures | count | {' | '.join(answered)} |\n|---|---|---|---|---|\n{answers}\n\n"
        "Distance to the training pictures; the floor is what the real held-out pictures get, and the rows below it "
        f"show that the measures move.\n\n| pictures | {head} |\n|---|{'---|' * (len(spaces) * len(cells))}\n{rows}\n\n"
        "Copying: distance to the nearest training picture in the judge's eyes, and as a share of that to the second "
        f"nearest.\n\n| pictures | distance | share |\n|---|---|---|\n{copying}\n"
    )


def _share(share, count):
    # of independent pictures, with its standard error
    return f"{share:.0%} ± {(share * (1 - share) / count) ** 0.5:.0%}"
