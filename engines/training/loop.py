"""The training loop: steps, learning rate, moving averages, atomic checkpoints, reports.

A trainer brings `step(index, learning_rate_share) -> {name: loss}`, `state() -> tree`,
`load_state(tree)`, `samples() -> picture`, `export(path)`, its `batch` size and the dict `card` of
what will be said of the model; the loop knows nothing of models.
Everything that a step draws comes from its index or from the torch generator, which a checkpoint
keeps: a resumed run arrives at the same weights, bit for bit, on one device.
"""

import json
import math
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from engines.checkpoints import files
from engines.errors import AtelierError, BadRequest, Cancelled

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"


def train(trainer, out, *, steps=None, minutes=None, warmup=200, resume=False, report=None, save_seconds=180):
    """Run `trainer` to `steps` steps, or to as many as fit into `minutes` by the pace of the first 20.

    `out` receives `checkpoint.safetensors`, `log.jsonl`, `losses.png`, `samples-*.png` and at the end
    `model.safetensors`. `report(dict)` is called after every step; `Cancelled` raised from it saves
    and stops. Returns the number of steps done.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    index, log = 0, []
    if resume:
        index, log, steps = _resume(trainer, out, steps)
    elif (out / CHECKPOINT).exists():
        raise BadRequest(f"{out} already holds a run; add --resume to continue it, or choose another folder.")
    if not steps and not minutes:
        raise BadRequest("How long shall it train? Give --steps or --minutes.")
    started = saved = time.monotonic()
    first = index
    try:
        while steps is None or index < steps:
            share = rate_share(index, steps, warmup)
            losses = trainer.step(index, share)
            index += 1
            if not all(math.isfinite(value) for value in losses.values()):
                raise AtelierError(f"The loss is no number at step {index}; go on from the checkpoint with --resume.")
            log.append({"step": index, **losses})
            pace = (time.monotonic() - started) / (index - first)
            if steps is None and index - first == 20:
                steps = index + max(1, int((minutes * 60 - 20 * pace) / pace))
            if report:
                left = (steps - index) * pace if steps else minutes * 60
                pictures = trainer.batch / pace
                report({"step": index, "steps": steps, "pictures_per_second": pictures, "seconds_left": left, **losses})
            if time.monotonic() - saved > save_seconds:
                _save(trainer, out, index, steps, log)
                saved = time.monotonic()
    except Cancelled:
        _save(trainer, out, index, steps, log)
        return index
    _save(trainer, out, index, steps, log)
    trainer.card["pictures seen"] = index * trainer.batch
    trainer.export(out / "model.safetensors")
    return index


def rate_share(index, steps, warmup):
    """Share of the full learning rate at a step: linear warm-up, then a cosine to zero at `steps`."""
    if index < warmup:
        return (index + 1) / warmup
    if steps is None or steps <= warmup:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (index - warmup) / (steps - warmup)))


class MovingAverage:
    """Exponential moving average of the parameters that a module learns by gradient.

    The first steps follow more quickly. An EMA codebook has an average of its own and stays out.
    `values` are the averages by name, on the module's device.
    """

    def __init__(self, module, decay=0.999):
        self.module, self.decay = module, decay
        self.values = {name: value.detach().clone() for name, value in self._learned()}

    def _learned(self):
        return [(name, value) for name, value in self.module.named_parameters() if value.requires_grad]

    @torch.no_grad()
    def update(self, index):
        decay = min(self.decay, (1 + index) / (10 + index))
        parameters = dict(self._learned())
        for name, value in self.values.items():
            value.lerp_(parameters[name], 1 - decay)

    @torch.no_grad()
    def load(self, values):
        """Take over the `values` of another average of the same module."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def swap(self):
        """Exchange the averages with the module's own values; call twice to come back."""
        for name, parameter in self._learned():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name] = kept


def _save(trainer, out, index, steps, log):
    tensors, rest = _flatten(trainer.state())
    tensors["generator"] = torch.get_rng_state()
    part = out / (LOG + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    part.replace(out / LOG)
    files.save(out / CHECKPOINT, tensors, {"step": index, "steps": steps, "rest": rest})
    plot(log).save(out / "losses.png")
    trainer.samples().save(out / f"samples-{index:06d}.png")


def _resume(trainer, out, steps):
    from safetensors.torch import load_file

    if not (out / CHECKPOINT).exists():
        raise BadRequest(f"{out} holds no checkpoint to resume; start the run without --resume.")
    _, metadata = files.read_header(out / CHECKPOINT)
    tensors = load_file(out / CHECKPOINT)
    torch.set_rng_state(tensors.pop("generator"))
    try:
        trainer.load_state(_unflatten(tensors, metadata["rest"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise BadRequest(f"The run in {out} is of another preset; resume it with the one it began with.") from error
    index = metadata["step"]
    lines = (out / LOG).read_text(encoding="utf-8").splitlines()
    log = [row for row in map(json.loads, lines) if row["step"] <= index]
    return index, log, steps or metadata["steps"]


def _flatten(tree, prefix=""):
    """A nested dict as flat tensors and a JSON-able rest, both keyed by path."""
    tensors, rest = {}, {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, dict):
            inner_tensors, inner_rest = _flatten(value, path)
            tensors |= inner_tensors
            rest |= inner_rest
        elif isinstance(value, torch.Tensor):
            tensors[path] = value.detach().clone()
        else:
            rest[path] = value
    return tensors, rest


def _unflatten(tensors, rest):
    tree = {}
    for path, value in {**tensors, **rest}.items():
        *parents, leaf = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def optimizer_state(optimizer):
    """An optimizer's moments as a nested dict of tensors, keyed by position."""
    return {str(i): state for i, state in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer, state):
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(i): row for i, row in state.items()}, "param_groups": groups})


def plot(log, width=900, height=220):
    """The losses as curves, one panel a loss, smoothed over a hundredth of the run."""
    names = [name for name in dict.fromkeys(name for row in log for name in row) if name != "step"]
    sheet = Image.new("RGB", (width, height * max(1, len(names))), "white")
    draw = ImageDraw.Draw(sheet)
    for panel, name in enumerate(names):
        rows = [(row["step"], row[name]) for row in log if name in row]
        window = max(1, len(rows) // 100)
        means = [
            (rows[i][0], sum(value for _, value in rows[i : i + window]) / len(rows[i : i + window]))
            for i in range(0, len(rows), window)
        ]
        low, high = min(value for _, value in means), max(value for _, value in means)
        top, bottom = panel * height + 30, (panel + 1) * height - 20
        last = means[-1][0]
        points = [
            (60 + step / last * (width - 80), bottom - (value - low) / ((high - low) or 1) * (bottom - top))
            for step, value in means
        ]
        title = f"{name}   {means[0][1]:.4g} at first, {means[-1][1]:.4g} at step {last}"
        draw.text((10, panel * height + 8), title, "black")
        draw.text((8, top - 4), f"{high:.3g}", "grey")
        draw.text((8, bottom - 8), f"{low:.3g}", "grey")
        draw.line([(60, bottom), (width - 20, bottom)], "lightgrey")
        if len(points) > 1:
            draw.line(points, "#3b6ea5", width=2)
    return sheet

