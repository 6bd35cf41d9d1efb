"""The training loop: steps, learning rate, moving averages, atomic checkpoints, reports.

A trainer brings `step(index, learning_rate_share) -> {name: loss}`, `state() -> tree`,
`load_state(tree)`, `fingerprint() -> str` of what a run must keep to be continued,
`samples() -> picture`, `export(path)`, its `batch` size, its `device`, and the dict `card` of what will
be said of the model; the loop knows nothing of models.
Everything that a step draws comes from its index or from torch's generators, which a checkpoint
keeps: a resumed run arrives at the same weights, bit for bit, on one device.
"""

import contextlib
import hashlib
import json
import math
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from engines.checkpoints import files
from engines.errors import AtelierError, BadRequest, Cancelled
from engines.runtime import attention

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
MODEL = "model.safetensors"
PACED = 20  # steps by which a pace can be told


def train(trainer, out, *, steps=None, minutes=None, warmup=200, resume=False, report=None, save_seconds=180):
    """Run `trainer` to `steps` steps, or to as many as fit into `minutes` by the pace so far, told anew at each step.

    `out` receives `checkpoint.safetensors`, `log.jsonl`, `losses.png`, `samples-*.png` and at the end
    `model.safetensors`. `report(dict)` is called after every step; `Cancelled` raised from it saves
    and stops. A resumed run without `steps` or `minutes` goes to the steps that it was begun for.
    Returns the number of steps done. Raises `BadRequest` for what `check` refuses, and for a run that
    cannot be continued or has its steps.
    """
    out = Path(out)
    check(out, steps=steps, minutes=minutes, resume=resume)
    index, log = 0, []
    if resume:
        index, log, steps = _resume(trainer, out, steps, minutes)
    by_time = steps is None
    started = saved = time.monotonic()
    first = index
    try:
        while steps is None or index < steps:
            share = rate_share(index, steps, warmup)
            with attention(trainer.device):
                losses = trainer.step(index, share)
            index += 1
            if not all(math.isfinite(value) for value in losses.values()):
                raise AtelierError(f"The loss is no number at step {index}; begin anew with another preset.")
            log.append({"step": index, **losses})
            elapsed = time.monotonic() - started
            pace = elapsed / (index - first)
            if by_time and index - first >= PACED:
                steps = index + max(0, int((minutes * 60 - elapsed) / pace))
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
    trainer.export(out / MODEL)
    return index


def check(out, *, steps=None, minutes=None, resume=False):
    """Raise `BadRequest` if a run of that length cannot begin, or go on, in the folder `out`; make it if need be."""
    if not steps and not minutes and not resume:
        raise BadRequest("How long shall it train? Give --steps or --minutes.")
    if steps is not None and steps < 1:
        raise BadRequest(f"A run of {steps} steps trains nothing; give at least 1.")
    if minutes is not None and not 0 < minutes < math.inf:
        raise BadRequest(f"A run cannot take {minutes} minutes; give a number above 0.")
    out, begun = Path(out), (Path(out) / CHECKPOINT).exists()
    if resume and not begun:
        raise BadRequest(f"{out} holds no checkpoint to resume; start the run without --resume.")
    if begun and not resume:
        raise BadRequest(f"{out} already holds a run; add --resume to continue it, or choose another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"{out} cannot be made a folder; choose another.") from error


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

    @contextlib.contextmanager
    def swapped(self):
        """Inside, the module has the averages and they have its own values."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self):
        for name, parameter in self._learned():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name] = kept


def fingerprint(*parts):
    """SHA-256 of configs, texts and dicts of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict):
            for name, value in part.items():
                digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def _save(trainer, out, index, steps, log):
    tensors, rest = _flatten(trainer.state())
    tensors |= _generators(trainer.device)
    part = out / (LOG + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    part.replace(out / LOG)
    command = trainer.card.get("command", "")
    metadata = {"step": index, "steps": steps, "command": command, "fingerprint": trainer.fingerprint(), "rest": rest}
    files.save(out / CHECKPOINT, tensors, metadata)
    plot(log).save(out / "losses.png")
    trainer.samples().save(out / f"samples-{index:06d}.png")


def _generators(device):
    """The states of torch's generators that a step on `device` draws from."""
    states = {"generator": torch.get_rng_state()}
    return states | {"generator of the GPU": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _resume(trainer, out, steps, minutes):
    from safetensors.torch import load_file

    _, metadata = files.read_header(out / CHECKPOINT)
    if metadata.get("fingerprint") != trainer.fingerprint():
        raise BadRequest(
            f"The run in {out} began with another preset, autoencoder, text encoder or folder of captions; "
            "resume it with those that it began with."
        )
    index = metadata["step"]
    steps = steps or (None if minutes else metadata["steps"])
    if steps and index >= steps and (out / MODEL).exists():
        raise BadRequest(f"The run in {out} has had its {index} steps; ask for more with --steps or --minutes.")
    if metadata["command"]:
        trainer.card["command"] = metadata["command"]  # that which began the run
    tensors = load_file(out / CHECKPOINT)
    torch.set_rng_state(tensors.pop("generator"))
    if "generator of the GPU" in tensors:
        state = tensors.pop("generator of the GPU")
        if trainer.device.type == "cuda":
            torch.cuda.set_rng_state(state, trainer.device)
    trainer.load_state(_unflatten(tensors, metadata["rest"]))
    try:
        lines = (out / LOG).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadRequest(f"{out / LOG} is gone, without which the run cannot go on; begin another.") from error
    return index, [row for row in map(json.loads, lines) if row["step"] <= index], steps


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

