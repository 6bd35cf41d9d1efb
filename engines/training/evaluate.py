"""Measuring a model on pictures that its training never saw, and writing the card that ships with it."""

import hashlib
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from engines import catalog, metrics, pictures, requests, tensors
from engines.engine import Engine
from engines.errors import BadRequest
from engines.text.captions import compose
from engines.training import data, enlargement, quality, restoration
from engines.vqgan import decoding
from engines.vqgan.quantizer import usage

SIZE = 128  # pixels a side at which models are measured
STYLES = tuple(requests.STYLES)
SEEDS = 4
PROMPTS = 8  # of each style and each of SIDES on the sheet
SIDES = {"seen": False, "held out": True}
LARGER = 64  # held-out pictures of a kind at twice the sides
INEXACT = (0.1, 0.2)  # spread of the noise on the latents of some of them
STYLE_WORDS = ("red heart", "pizza", "cat face", "house", "green apple", "bus")


def evaluate(name, folder, out, home=None, device="auto", say=print):
    """Measure the model `name` on the held-out pictures of `folder`, and write `card.md` and its pictures to `out`.

    Returns the figures. The card in the model file, which names the training, comes along, and so does
    `about.md` of the folder `out`, where people have written what no measurement says.
    """
    return _evaluate(catalog.find(name, home=home), Folder(folder, Engine(home, device), say), out)


def evaluate_all(name, folder, out, home=None, device="auto", say=print):
    """`evaluate` for the model `name`, or for an empty name every model of the catalog that can be measured.

    Each gets a folder of `out`, which receives all figures as `quality.json`. Returns them by model.
    """
    every = [row for row in catalog.catalog(home).values() if row.family in MEASURES]
    rows = [catalog.find(name, home=home)] if name else every
    shared, figures = Folder(folder, Engine(home, device), say), {}
    for row in rows:
        say(f"\n{row.id}")
        figures[row.id] = _evaluate(row, shared, Path(out) / row.id)
        (Path(out) / "quality.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return figures


class Folder:
    """A folder of pictures to measure on, read and judged once however many models are measured."""

    def __init__(self, path, engine, say):
        self.path, self.engine, self.say = Path(path), engine, say
        self._examples, self._benches = {}, {}

    def examples(self, size):
        if size not in self._examples:
            self._examples[size] = data.load(self.path, size)
        return self._examples[size]

    def bench(self, size):
        if size not in self._benches:
            self._benches[size] = quality.bench(self.examples(size), size, self.engine.device, self.say)
        return self._benches[size]


def _evaluate(row, folder, out):
    if row.family not in MEASURES:
        raise BadRequest(f"There is no evaluation for {row.family} models; there is for {', '.join(MEASURES)}.")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"{out} cannot be made a folder; choose another.") from error
    model = folder.engine.load(row)
    figures, body = MEASURES[row.family](model, folder, out)
    head = "\n".join(f"| {key} | {value} |" for key, value in row.card.items() if value)
    head = f"# {row.id}\n\n| | |\n|---|---|\n| family | {row.family} |\n{head}\n| SHA-256 | `{model.sha256}` |\n\n"
    about = out / "about.md"
    prose = about.read_text(encoding="utf-8").strip() + "\n\n" if about.exists() else ""
    (out / "card.md").write_text(head + prose + body, encoding="utf-8")
    return figures


# ---------------------------------------------------------------- VQGAN


@torch.no_grad()
def _vqgan(model, folder, out, size=SIZE):
    device, perceptual = next(model.parameters()).device, metrics.RandomPerceptual()
    figures, table = {}, ""
    for name, rows in data.held_out_sets(folder.examples(size)).items():
        if not rows:
            continue
        shown = [data.middle(example.pixels, size) for example in rows]
        folder.say(f"{len(shown)} held-out {name}")
        rows, tokens, redrawn, taken = {}, [], [], 0.0
        for pixels in shown:
            image = Image.fromarray(pixels)
            x = tensors.from_image(image)
            started = time.perf_counter()
            y, quantized = model(x.to(device))
            results = {"ours": tensors.to_images(y)[0]}
            taken += time.perf_counter() - started
            bits = quantized.indices.numel() * math.log2(model.codebook_config.n_embed) / (image.width * image.height)
            needed = {"ours": bits}
            for codec in CODECS:
                results[codec], needed[codec] = _coded(codec, image, bits)
            for who, result in results.items():
                rows.setdefault(who, []).append([*_near(x, result, perceptual), needed[who]])
            tokens.append(quantized.indices.cpu())
            redrawn.append([image, *results.values()])
        used, perplexity = usage(torch.cat(tokens), model.codebook_config.n_embed)
        figures[name] = {
            "pictures": len(shown),
            "codes_used": used,
            "perplexity": perplexity,
            "milliseconds": 1000 * taken / len(shown),
        }
        for who, measured in rows.items():
            psnr, ssim, distance, bits = np.mean(measured, axis=0).tolist()
            figures[name][who] = {"psnr": psnr, "ssim": ssim, "perceptual": distance, "bits_per_pixel": bits}
            table += f"| {name}, {who} | {psnr:.2f} dB | {ssim:.3f} | {distance:.3f} | {bits:.3f} |\n"
        picked = data.evenly(redrawn, 8)
        sheet = pictures.grid([row[i] for i in range(len(picked[0])) for row in picked], len(picked))
        sheet.save(out / f"{name}.webp", quality=90, method=6)
    codes = "".join(
        f"Of {row['pictures']} {name}, {row['codes_used']} of {model.codebook_config.n_embed} codes are in use, with a "
        f"perplexity of {row['perplexity']:.0f}; there and back took {row['milliseconds']:.0f} ms a picture on "
        f"{device.type}.\n"
        for name, row in figures.items()
    )
    body = (
        f"## Held-out pictures\n\nNone of them was in the training; {image.width}x{image.height} pixels, icons on "
        "white, photographs cut from the middle. JPEG and WebP are the best that fit into the same bits per pixel, "
        "tables and headers not counted; where even the lowest quality needs more, that is shown. The perceptual "
        "distance is that of features of a random network with a fixed seed.\n\n"
        f"| pictures | PSNR | SSIM | perceptual | bits per pixel |\n|---|---|---|---|---|\n{table}\n{codes}\n"
        + "".join(f"![From above: {name}, ours, {', '.join(CODECS)}]({name}.webp)\n\n" for name in figures)
    )
    if model.config.larger:
        figures["larger"], section = _larger(model, folder, out, 2 * size)
        body += section
    return figures, body


def _near(x, result, perceptual):
    # PSNR, SSIM and perceptual distance of a picture from what it is to be
    z = tensors.from_image(result)
    return metrics.psnr(x, z), metrics.ssim(x, z), perceptual(x, z).item()


def _larger(model, folder, out, size):
    """Held-out pictures of `size` pixels a side, encoded at half their sides, by the second head and by the first."""
    device, perceptual = next(model.parameters()).device, metrics.RandomPerceptual()
    figures, table, sheets = {}, "", []
    for name, rows in data.held_out_sets(folder.examples(size)).items():
        found, redrawn = {}, []
        for number, example in enumerate(data.evenly(rows, LARGER)):
            image = Image.fromarray(data.middle(example.pixels, size))
            x = tensors.from_image(image)
            exact = model.encode(F.avg_pool2d(x, 2).to(device))
            noise, results = tensors.noise([number], exact.shape[1:]).to(device), {}
            for latents, spread in ((exact, 0.0), *((exact + spread * noise, spread) for spread in INEXACT)):
                small = tensors.to_images(model.decode(latents))[0]
                how = f", latents inexact by {spread}" if spread else ""
                results[f"second head{how}"] = tensors.to_images(model.decode(latents, larger=True))[0]
                results[f"first head, enlarged{how}"] = small.resize(image.size, Image.Resampling.BICUBIC)
            for who, result in results.items():
                found.setdefault(who, []).append(_near(x, result, perceptual))
            redrawn.append([image, *results.values()])
        for who, measured in found.items():
            psnr, ssim, distance = np.mean(measured, axis=0).tolist()
            figures.setdefault(name, {})[who] = {"psnr": psnr, "ssim": ssim, "perceptual": distance}
            table += f"| {name}, {who} | {psnr:.2f} dB | {ssim:.3f} | {distance:.3f} |\n"
        sheets += data.evenly(redrawn, 4)
    sheet = pictures.grid([row[i] for i in range(len(sheets[0])) for row in sheets], len(sheets))
    sheet.save(out / "larger.webp", quality=60, method=6)
    return figures, (
        f"## At twice the sides\n\nThe second head draws {size}x{size} pixels from the codes of a picture at half its "
        "sides; beside it stands the first head's picture, enlarged by bicubic. Latents that a model draws are never "
        "exact; so are those with noise of the given spread. Of each kind, as many as "
        f"{LARGER} held-out pictures, evenly taken.\n\n"
        f"| pictures | PSNR | SSIM | perceptual |\n|---|---|---|---|\n{table}\n"
        f"![From above: {', '.join(['pictures', *found])}](larger.webp)\n\n"
    )


CODECS = {
    # how it is saved, and how many of the bytes are headers
    "JPEG": ({"subsampling": "4:2:0", "optimize": True}, lambda coded: coded.index(b"\xff\xda")),
    "WebP": ({"method": 4}, lambda coded: 20),  # of the container and its one chunk
}


def _coded(codec, image, bits_per_pixel):
    """The picture after the best of a codec that fits into `bits_per_pixel` without its headers, and what it needed."""
    options, headers = CODECS[codec]
    best = None
    for level in range(1, 96):
        stream = io.BytesIO()
        image.save(stream, codec, quality=level, **options)
        coded = stream.getvalue()
        bits = 8 * (len(coded) - headers(coded)) / (image.width * image.height)
        if best and bits > bits_per_pixel:
            break
        best = stream, bits
    return Image.open(best[0]).convert("RGB"), best[1]


# ---------------------------------------------------------------- upscalers


def _upscaler(model, folder, out):
    figures = enlargement.measure(model, folder.examples(enlargement.SIDE), out, folder.say)
    return figures, enlargement.described(figures)


# ---------------------------------------------------------------- models that draw


def _drawer(model, folder, out):
    size, say = model.config.size, folder.say
    styled = [e for e in folder.examples(size) if e.text and e.style in STYLES]
    icons = sorted(styled, key=lambda e: hashlib.sha256(e.name.encode()).digest())
    if all(e.held_out for e in icons):
        raise BadRequest(f"No pictures of {folder.path} to train on have captions with styles; the card needs some.")
    chosen = [
        example
        for style in STYLES
        for held_out in SIDES.values()
        for example in [e for e in icons if (e.style, e.held_out) == (style, held_out)][:PROMPTS]
    ]
    say(f"{len(chosen)} prompts, seeds 0 to {SEEDS - 1}")

    def draw(text, style, count=1):
        return quality.draw(model, compose(text, style), size, count=count)

    rows = [draw(example.text, example.style, SEEDS) for example in chosen]
    labels = [compose(e.text, e.style) + (" (held out)" if e.held_out else "") for e in chosen]
    _labelled(rows, labels, out / "prompts.webp", columns=4)

    say("styles")
    rows = [[draw(text, style)[0] for style in STYLES] for text in STYLE_WORDS]
    _labelled(rows, [f"{text}: {', '.join(STYLES)}" for text in STYLE_WORDS], out / "styles.webp", columns=2)

    both = [example for example in chosen if example.text_zh][::4][:8]
    if both:
        say("English and Chinese")
        rows = [draw(e.text, e.style, 2) + draw(e.text_zh, e.style, 2) for e in both]
        labels = [f"{compose(e.text, e.style)}: English twice, Chinese twice" for e in both]
        _labelled(rows, labels, out / "chinese.webp", columns=2)

    say("nearest training pictures")
    seen = [example for example in icons if not example.held_out]
    flat = np.stack([data.middle(e.pixels, size)[::8, ::8].reshape(-1) for e in seen]).astype(np.float32)
    rows = []
    for example in chosen[::5]:
        drawn = draw(example.text, example.style)[0]
        small = np.asarray(drawn)[::8, ::8].reshape(-1).astype(np.float32)
        order = np.square(flat - small).mean(1).argsort()[:3]
        rows.append([drawn] + [Image.fromarray(data.middle(seen[i].pixels, size)) for i in order])
    _labelled(rows, [compose(e.text, e.style) for e in chosen[::5]], out / "nearest.webp", columns=2)

    asked, measures = requests.SUITED[model.family], quality.measure(folder.bench(size), model, say)
    figures = {"prompts": len(chosen), "held_out_prompts": sum(e.held_out for e in chosen), "quality": measures}
    sections = [f"## Measures\n\n{quality.table(measures)}"]
    if "inpaint" in catalog.TASKS[model.family]:
        figures["restoration"] = restoration.measure(model, folder.examples(size), size, out, say)
        sections.append(f"## Restoration\n\n{restoration.described(figures['restoration'])}")
    if model.family in LOSSES:
        say("loss on pictures seen and held out")
        loss, meaning = LOSSES[model.family]
        sides = {name: [e for e in icons if e.held_out is held_out][:256] for name, held_out in SIDES.items()}
        figures["loss"] = {name: loss(model, part) for name, part in sides.items() if part}
        measured = ", ".join(f"{value:.4f} on {len(sides[name])} {name}" for name, value in figures["loss"].items())
        sections.append(f"## Loss\n\n{meaning} at 16 even times, on pictures with white behind them: {measured}.")
    chinese = "English and Chinese, seeds 0 and 1 each:\n\n![Chinese](chinese.webp)\n\n" if both else ""
    body = (
        "## Pictures, as they come\n\n"
        f"Of each style, the {PROMPTS} captions that were learned and the {PROMPTS} held out from the training, or as "
        f"many as there are, whose file names have the smallest SHA-256: {figures['held_out_prompts']} of the "
        f"{figures['prompts']} are held out. Seeds 0 to {SEEDS - 1}, {size}x{size} pixels, {asked['steps']} steps, "
        f"guidance {asked['cfg_scale']}, all else by default; nothing was chosen.\n\n"
        f"![Prompts](prompts.webp)\n\nThe style word, one seed:\n\n![Styles](styles.webp)\n\n{chinese}"
        "Drawn, and beside it the three nearest training pictures by colour on a grid of 16x16:\n\n"
        "![Nearest](nearest.webp)\n\n" + "\n\n".join(section.strip() for section in sections) + "\n"
    )
    return figures, body


@torch.no_grad()
def _velocity_loss(model, examples, times=16):
    denoiser, total = model.denoiser(), []
    for first, x0, words in _batches(model, examples):
        if model.inpaints:
            words["concat"] = model.nothing_around(len(x0), model.config.size, model.config.size)
        for i, share in enumerate(np.linspace(0.05, 0.95, times)):
            sigma = model.noise.sigma(model.noise.time(torch.full((len(x0),), float(share), device=model.device)))
            n = tensors.noise(_numbers(i, first, x0), x0.shape[1:]).to(model.device)
            denoised = denoiser(x0 + sigma.view(-1, 1, 1, 1) * n, sigma, **words)
            # a velocity n - x0 is wrong by (denoised - x0) / t where t = sigma / (1 + sigma)
            error = (denoised - x0) * ((1 + sigma) / sigma).view(-1, 1, 1, 1)
            total += error.square().mean((1, 2, 3)).tolist()
    return float(np.mean(total))


@torch.no_grad()
def _token_loss(model, examples, times=16):
    total, count = 0.0, 0
    for first, tokens, words in _batches(model, examples):
        for i, share in enumerate(np.linspace(0.05, 0.95, times)):
            places = tensors.noise(_numbers(i, first, tokens), (tokens[0].numel(),))
            hidden = decoding.hide(places, [share] * len(tokens)).view_as(tokens).to(model.device)
            logits = model.transformer(tokens, hidden, **words)
            total += F.cross_entropy(logits[hidden], tokens[hidden], reduction="sum").item()
            count += int(hidden.sum())
    return total / count


def _batches(model, examples, size=32):
    """The number of its first example, the model's encoding and the words of each batch."""
    for first in range(0, len(examples), size):
        part = examples[first : first + size]
        pixels = np.stack([data.middle(e.pixels, model.config.size) for e in part])
        x = tensors.from_bytes(torch.from_numpy(pixels)).to(model.device)
        yield first, model.encode(x), model.words([compose(e.text, e.style) for e in part])


def _numbers(time, first, rows):
    # a seed for each time and example
    return range(1000 * time + first, 1000 * time + first + len(rows))


LOSSES = {
    "latent-diffusion": (_velocity_loss, "Mean squared error of the predicted velocity"),
    "token-transformer": (_token_loss, "Cross-entropy of the hidden tokens"),
}
DRAWING = ("few-step-diffusion", "latent-diffusion", "token-transformer")
MEASURES = {"vqgan": _vqgan, "upscaler": _upscaler} | dict.fromkeys(DRAWING, _drawer)


def _labelled(rows, labels, path, columns):
    """Rows of pictures with their words above them, in `columns` side by side, as one WebP."""
    strips = []
    for row, label in zip(rows, labels, strict=True):
        strip = pictures.grid(row, len(row))
        sheet = Image.new("RGB", (strip.width, strip.height + 18), "white")
        ImageDraw.Draw(sheet).text((4, 4), label.encode("ascii", "replace").decode(), "black")
        sheet.paste(strip, (0, 18))
        strips.append(sheet)
    blank = Image.new("RGB", strips[0].size, "white")
    strips += [blank] * (-len(strips) % columns)
    pictures.grid(strips, columns).save(path, quality=60, method=6)
