"""What can be asked of the engine, and what comes back: frozen dataclasses without torch.

Every field carries its bounds and its one line of help, so that the page, the command line, the
checks and the tests read the same table. A request holds all that its task needs, pictures
included, and survives a trip through JSON: that is what a PNG keeps to be made again.
"""

import base64
import dataclasses
import itertools
import json
import math
import random
import re
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from engines.errors import BadRequest, unknown

SAMPLERS = {
    "dpmpp_2m": "DPM++ 2M: second order from the step before; the best start for most pictures",
    "dpmpp_2m_sde": "DPM++ 2M SDE: the same with fresh noise in each step; richer detail, less repeatable in few steps",
    "euler": "Euler: one plain step along the flow; predictable and smooth",
    "euler_ancestral": "Euler ancestral: adds fresh noise each step; never settles, more variety",
    "heun": "Heun: a second look at every step; twice the time, very accurate",
    "dpm_2": "DPM-Solver-2: looks at the middle of each step; twice the time",
    "lms": "LMS: a linear multistep from the last four steps",
    "ddim": "DDIM: the deterministic classic of the diffusion papers",
    "ddpm": "DDPM: the original ancestral sampler; wants many steps",
    "unipc": "UniPC: predictor and corrector; good in few steps",
    "lcm": "LCM: jumps to the end and re-noises; for models tuned for very few steps",
}

SCHEDULES = {
    "linear": "Linear in time: even steps of the model's own time",
    "karras": "Karras: small steps near the end, where detail appears",
    "exponential": "Exponential: even steps in the logarithm of the noise",
    "simple": "Simple: every n-th noise level of the training",
    "sgm_uniform": "SGM uniform: even in time, with the last step left for the end",
}

ORDERS = {
    "halton": "Halton: places far apart come first, whatever the model thinks; clean and varied",
    "confidence": "Confidence: what the model is surest of comes first, with a little chance",
}

STYLES = {
    "3d": "soft light and volume",
    "glossy": "gradients and highlights",
    "flat": "plain shapes",
    "cartoon": "bold drawing",
}

AREAS = {
    "crop": "Crop: the mask and its surroundings; fine even in a large picture",
    "parts": "Parts: one small place after the other; finest for scratches all over, and slower",
    "whole": "Whole: all of the picture, but coarsely",
}
BEGINNINGS = {
    "around": "Around: what lies around, continued into it; for restoring",
    "picture": "Picture: what is there; for changing it",
}
MATCHES = {
    "seam": "Seam: brought to the old smoothly, as the seam asks (Poisson)",
    "none": "None: as the model painted them",
}
SUITED = {  # what suits each family of models that draw; the page offers it, and the cards measure by it
    "few-step-diffusion": {"steps": 4, "cfg_scale": 2.5},
    "latent-diffusion": {"steps": 30, "cfg_scale": 2.0},
    "token-transformer": {"steps": 16, "cfg_scale": 3.0},
    "taming-transformer": {"steps": 20, "cfg_scale": 1.0},  # it goes by tokens, whatever the steps
    "stable-diffusion": {"steps": 25, "cfg_scale": 7.0},
    "diffusers": {"steps": 25, "cfg_scale": 7.0},
}
SETTINGS = tuple(next(iter(SUITED.values())))  # that suit a family of models
SUGGESTED = (*SETTINGS, "width", "height")  # that suit a model
FAITHFUL = {  # of those what invents least: the first look of diffusion is the mean of all that may be there
    "latent-diffusion": {"steps": 1},
}

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")  # of a prompt

MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384  # pixels of what is enlarged
MAX_CELLS = 100  # of a comparison

VERSION = "0.1.0"


def _number(default, low, high, step, text):
    return field(default=default, metadata={"low": low, "high": high, "step": step, "help": text})


def _choice(default, table, text):
    return field(default=default, metadata={"choices": table, "help": text})


def _free(default, text):
    return field(default=default, metadata={"help": text})


def _check(request):
    for item in dataclasses.fields(request):
        value, meta = getattr(request, item.name), item.metadata
        if isinstance(value, str) and value != value.encode("utf-8", "replace").decode():
            raise BadRequest(f"The {item.name} holds half of a character, which nobody can read; type it again.")
        if "low" in meta:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BadRequest(f"{item.name} must be a number, not “{value}”.")
            if not meta["low"] <= value <= meta["high"]:
                raise BadRequest(
                    f"{item.name} is {value}; it must lie between {meta['low']} and {meta['high']}."
                )
            if item.type is int:
                if value != int(value):
                    raise BadRequest(f"{item.name} must be a whole number, not {value}.")
                object.__setattr__(request, item.name, int(value))  # 20.0 of a slider or of JSON is 20
        elif not isinstance(value, item.type):
            raise BadRequest(f"{item.name} must be {'text' if item.type is str else 'the bytes of a picture'}.")
        elif "choices" in meta and value not in meta["choices"]:
            raise unknown(item.name, value, [name for name in meta["choices"] if name])


def _check_picture(request, what_for):
    if not request.image:
        raise BadRequest(f"There is no picture to {what_for}: choose one first.")


def wordless(prompt, style):
    """Whether there is nothing that guidance could follow."""
    return not (prompt.strip() or style)


@dataclass(frozen=True)
class FromWords:
    """What every request that draws has: the words, and how they are followed."""

    model: str = _free("", "which generator draws")
    prompt: str = _free("", "what to draw, in English or Chinese: “a red fox, on a blue background”")
    negative: str = _free("", "what to keep away from; needs guidance above 1")
    style: str = _choice("", {"": "as the words say"} | STYLES, "how it is drawn")
    steps: int = _number(20, 1, 150, 1, "steps from nothing to a picture; more is slower and finer")
    cfg_scale: float = _number(4.0, 1.0, 20.0, 0.1, "how strictly the words are followed; 1 is off and twice as fast")
    seed: int = _number(0, 0, 2**32 - 1, 1, "the same seed draws the same picture")
    order: str = _choice("halton", ORDERS, "of a token model: which tokens are settled first")
    temperature: float = _number(0.7, 0.0, 2.0, 0.05, "of a token model: how bold its guesses are; 0 is not at all")
    top_k: int = _number(0, 0, 4096, 1, "of a token model: guesses are among so many likeliest codes; 0 is all")
    top_p: float = _number(1.0, 0.01, 1.0, 0.01, "of a token model: guesses are in this share of likeliest; 1 is all")
    corrections: int = _number(8, 0, 32, 1, "of a token model: further steps that tell specks and ragged edges anew")

    def __post_init__(self):
        _check(self)
        if self.cfg_scale > 1 and wordless(self.prompt, self.style):
            raise BadRequest(
                "Guidance follows words and there are none: write a prompt, "
                "or set guidance to 1 to draw from noise alone."
            )


@dataclass(frozen=True)
class Drawn(FromWords):
    """What requests have that make new pictures. Picture `i` is made from `seed + i` alone."""

    count: int = _number(1, 1, 16, 1, "how many pictures, with seeds counting up")
    sampler: str = _choice("dpmpp_2m", SAMPLERS, "of a diffusion model: how each step is taken")
    scheduler: str = _choice("linear", SCHEDULES, "of a diffusion model: how the noise falls from step to step")
    vae: str = _free("", "of Stable Diffusion: another autoencoder; without one, the model's own")
    cfg_rescale: float = _number(0.0, 0.0, 1.0, 0.05, "of a diffusion model: tames strong colours; 0 is off")
    cfg_start: float = _number(0.0, 0.0, 1.0, 0.05, "of a diffusion model: guidance begins at this share of the steps")
    cfg_end: float = _number(1.0, 0.0, 1.0, 0.05, "of a diffusion model: guidance ends at this share of the steps")

    def __post_init__(self):
        super().__post_init__()
        if self.cfg_start >= self.cfg_end:
            raise BadRequest(
                f"Guidance begins at {self.cfg_start} and ends at {self.cfg_end}; it must end later than it begins."
            )


@dataclass(frozen=True)
class GenerateRequest(Drawn):
    """Words, noise or a picture to new pictures."""

    width: int = _number(128, 64, 2048, 32, "pixels; each model draws best at a size of its own")
    height: int = _number(128, 64, 2048, 32, "pixels")
    variation_seed: int = _number(0, 0, 2**32 - 1, 1, "a second seed to lean towards")
    variation_strength: float = _number(0.0, 0.0, 1.0, 0.01, "0 stays with the seed, 1 arrives at the variation seed")
    image: bytes | None = _free(None, "a picture to start from, as PNG")
    strength: float = _number(0.6, 0.05, 1.0, 0.05, "how far to leave the picture: low keeps it, 1 ignores it")

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "height"):
            if getattr(self, name) % 32:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be a multiple of 32.")


@dataclass(frozen=True)
class InpaintRequest(Drawn):
    """What is under the mask painted anew, and new space beyond the edges; nothing else changes."""

    image: bytes = _free(b"", "the picture, as PNG, at its full size")
    mask: bytes = _free(b"", "what is painted anew, as PNG of the picture's size: white is, black is not")
    begin: str = _choice("around", BEGINNINGS, "what stands under the mask at first")
    strength: float = _number(1.0, 0.05, 1.0, 0.05, "how far to leave what stands there at first; 1 ignores it")
    area: str = _choice("crop", AREAS, "what the model looks at")
    margin: float = _number(0.5, 0.0, 2.0, 0.05, "of a crop: how much of its surroundings, as a share of the mask's")
    feather: int = _number(4, 0, 256, 1, "pixels round the mask over which the new passes into the old")
    match: str = _choice("seam", MATCHES, "how the colours of the new are brought to those of the old")
    jumps: int = _number(0, 0, 10, 1, "of a diffusion model: how often the steps are gone again, for a better fit")
    left: int = _number(0, 0, 4096, 1, "pixels of new space at the left")
    right: int = _number(0, 0, 4096, 1, "pixels of new space at the right")
    top: int = _number(0, 0, 4096, 1, "pixels of new space above")
    bottom: int = _number(0, 0, 4096, 1, "pixels of new space below")

    def __post_init__(self):
        super().__post_init__()
        _check_picture(self, "restore")
        if not (self.mask or self.left or self.right or self.top or self.bottom):
            raise BadRequest("Nothing is painted: paint over what shall be new, or ask for space beyond an edge.")


@dataclass(frozen=True)
class RefineRequest(Drawn):
    """A picture made bigger and drawn over by a diffusion model, which adds the detail that the words ask for."""

    image: bytes = _free(b"", "the picture, as PNG, at its full size")
    upscaler: str = _free("", "which upscaler enlarges the picture before it is drawn over")
    scale: float = _number(2.0, 1.0, 8.0, 0.1, "how many times as wide and as high")
    strength: float = _number(0.25, 0.05, 1.0, 0.05, "how far to leave the enlarged picture; much draws the words anew")
    overlap: float = _number(0.5, 0.0, 0.75, 0.05, "how much of a side neighbouring windows of the model share")

    def __post_init__(self):
        super().__post_init__()
        _check_picture(self, "make bigger")


@dataclass(frozen=True)
class Cleaned:
    """What requests have that clean a picture up by plain means, in this order."""

    image: bytes = _free(b"", "the picture, as PNG, at its full size")
    artefacts: float = _number(0.0, 0.0, 1.0, 0.05, "takes the blocks and rings of JPEG away")
    balance: float = _number(0.0, 0.0, 1.0, 0.05, "white balance: takes a cast of the light away")
    fading: float = _number(0.0, 0.0, 1.0, 0.05, "brings back contrast and colours that have faded")
    levels: float = _number(0.0, 0.0, 1.0, 0.05, "stretches the lightness from black to white")
    vividness: float = _number(0.0, -1.0, 1.0, 0.05, "more colour above 0, less below; -1 is grey")
    contrast: float = _number(0.0, 0.0, 1.0, 0.05, "local contrast: shows what lies in shadows and in haze")
    sharpness: float = _number(0.0, 0.0, 1.0, 0.05, "makes the edges of the result crisper")


@dataclass(frozen=True)
class UpscaleRequest(Cleaned):
    """A picture cleaned up and at more pixels."""

    model: str = _free("", "which upscaler draws what is missing")
    scale: float = _number(2.0, 1.0, 16.0, 0.1, "how many times as wide and as high")
    denoise: float = _number(0.0, 0.0, 1.0, 0.05, "how worn the picture is by blur, noise and JPEG, to be taken away")
    detail: float = _number(0.0, 0.0, 1.0, 0.05, "how much may be invented; 0 is the most faithful")
    looks: int = _number(4, 2, 8, 1, "how often the model looks at what it invents; without detail once")
    seed: int = _number(0, 0, 2**32 - 1, 1, "the same seed invents the same detail")
    tile: int = _number(256, 32, 1024, 32, "pixels a side that are worked on at once; changes time and memory alone")

    def __post_init__(self):
        _check(self)
        _check_picture(self, "enlarge")


@dataclass(frozen=True)
class SpotRequest(UpscaleRequest):
    """A square of what an `UpscaleRequest` makes, for a look before the whole."""

    left: int = _number(0, 0, 2**20, 1, "pixels of the picture at the left of the square")
    top: int = _number(0, 0, 2**20, 1, "pixels of the picture above the square")
    side: int = _number(96, 8, 512, 1, "pixels of the picture a side")


@dataclass(frozen=True)
class LocateRequest:
    """Where in a picture some words are, as a latent diffusion model sees it."""

    model: str = _free("", "which generator looks")
    image: bytes = _free(b"", "the picture, as PNG")
    prompt: str = _free("", "the words to look for, in English or Chinese")
    seed: int = _number(0, 0, 2**32 - 1, 1, "of the noise through which the model looks")

    def __post_init__(self):
        _check(self)
        _check_picture(self, "look at")
        if not self.prompt.strip():
            raise BadRequest("There are no words to look for: write into the prompt what shall be found.")


@dataclass(frozen=True)
class AdjustRequest(Cleaned):
    """A picture cleaned up; needs no model."""

    def __post_init__(self):
        _check(self)
        _check_picture(self, "clean up")


def restoring(family):
    """The settings by which a family of models restores what nothing is said of: the picture around decides."""
    return SUITED.get(family, {}) | FAITHFUL.get(family, {}) | {"cfg_scale": 1.0}


def suited(family, given, size=0):
    """`given` values of a request by name, those that are None replaced by what suits a model.

    It is of that family, and draws best at `size` pixels a side, where that is known. A request without words has
    nothing to be guided by.
    """
    fields = GenerateRequest.__dataclass_fields__
    low, high, step = (fields["width"].metadata[name] for name in ("low", "high", "step"))
    side = size if low <= size <= high and size % step == 0 else fields["width"].default
    fitting = {name: fields[name].default for name in SETTINGS} | SUITED.get(family, {})
    fitting |= {"width": side, "height": side}
    if "prompt" in given and wordless(given["prompt"], given.get("style", "")):
        fitting["cfg_scale"] = 1.0
    return {name: fitting.get(name) if value is None else value for name, value in given.items()}


def refitted(family, given, size=0):
    """The same, where what suits other families or is the default gives way, too; what an artist has set stays."""
    tables = [suited("", dict.fromkeys(SETTINGS)), *SUITED.values()]  # of no family: the default
    unset = [name for name in SETTINGS if name in given and given[name] in {table[name] for table in tables}]
    return suited(family, given | dict.fromkeys(unset), size)


def choose(text, seed):
    """`text` with one of each of its choices `{red|blue}`, drawn by `seed`; inner ones are drawn before outer ones."""
    rng = random.Random(seed)
    while CHOICE.search(text):
        text = CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text)
    return text


def alone(request, index):
    """The request that draws picture `index` of the request `request` and nothing else.

    One that is not `Drawn` makes a single picture, and is alone already.
    """
    if not isinstance(request, Drawn):
        return request
    seed = (request.seed + index) % 2**32
    more = {}
    if isinstance(request, GenerateRequest):
        more["variation_seed"] = (request.variation_seed + index) % 2**32
    return dataclasses.replace(request, prompt=choose(request.prompt, seed), count=1, seed=seed, **more)


@dataclass(frozen=True)
class ReconstructRequest:
    """A picture through an autoencoder and back, or its saved tokens alone back to a picture."""

    model: str = _free("", "which VQGAN reads and redraws the picture")
    image: bytes = _free(b"", "the picture, as PNG")
    tokens: bytes = _free(b"", "instead of a picture its tokens, as an .npz that was saved here")
    max_side: int = _number(512, 64, 2048, 32, "a larger picture is first reduced to this longer side, in pixels")

    def __post_init__(self):
        _check(self)
        if not self.image and not self.tokens:
            raise BadRequest("There is no picture to reconstruct: choose one first.")
        if self.image and self.tokens:
            raise BadRequest("There are a picture and tokens; give one of them.")


@dataclass(frozen=True)
class ResampleRequest(FromWords):
    """Some of a picture's tokens drawn anew by words; the others stay as they are."""

    tokens: bytes = _free(b"", "the picture as its tokens, an .npz that was saved here")
    mask: bytes = _free(b"", "which tokens are drawn anew, as PNG: a pixel a token, white is drawn anew")
    steps: int = _number(12, 1, 64, 1, "steps from hidden tokens to a picture")

    def __post_init__(self):
        super().__post_init__()
        if not self.tokens or not self.mask:
            raise BadRequest("Resampling needs a picture as tokens and a mask; give both.")


@dataclass(frozen=True)
class CodebookRequest:
    """The whole codebook of a VQGAN, to be looked at."""

    model: str = _free("", "whose codes are shown")

    def __post_init__(self):
        _check(self)


ACTS = {
    "status": "only tell",
    "load": "load a model ahead of its first picture",
    "unload": "free the memory of a model",
}


@dataclass(frozen=True)
class EngineRequest:
    """What the engine holds; before it tells, a model is loaded or unloaded if that is asked."""

    act: str = _choice("status", ACTS, "what is done first")
    model: str = _free("", "the model that is loaded or unloaded")

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class MeasureRequest:
    """How far two pictures of one size are from each other."""

    image: bytes = _free(b"", "the first picture, as PNG")
    other: bytes = _free(b"", "the second picture, as PNG")

    def __post_init__(self):
        _check(self)
        if not self.image or not self.other:
            raise BadRequest("Measuring needs two pictures; give both.")


@dataclass(frozen=True)
class CompareRequest:
    """One request drawn many times, with some of its fields varied along axes.

    The axes run across, down and over pages; those left out have one point that changes nothing. An axis is
    a tuple of points, and a point a dict of fields with what they are there. Each combination of points is a
    cell, a request of its own, which the queue hands to the engine. Raises `BadRequest` as the first cell
    does that cannot be.
    """

    base: object = None
    axes: tuple = ()

    def __post_init__(self):
        if type(self.base) not in (GenerateRequest, InpaintRequest, UpscaleRequest, ReconstructRequest):
            raise BadRequest("What is compared must be pictures that are drawn, inpainted, enlarged or reconstructed.")
        if len(self.axes) > 3:
            raise BadRequest(f"A comparison has up to three axes, not {len(self.axes)}.")
        object.__setattr__(self, "axes", (*self.axes, *[({},)] * (3 - len(self.axes))))
        count = math.prod(len(axis) for axis in self.axes)
        if not 2 <= count <= MAX_CELLS:
            raise BadRequest(
                f"This would be a comparison of {count} pictures; choose models and axes that make 2 to {MAX_CELLS}."
            )
        known = {item.name for item in dataclasses.fields(self.base)}
        extra = sorted({name for axis in self.axes for point in axis for name in point} - known)
        if extra:
            raise BadRequest(f"There is no {', '.join(extra[:3])} to compare by; choose among: {', '.join(known)}.")
        self.cells()

    def cells(self):
        """The request of each cell by its place, a tuple of an index an axis, the last of which changes first."""
        cells = {}
        for place in itertools.product(*(range(len(axis)) for axis in self.axes)):
            point = {}
            for axis, index in zip(self.axes, place, strict=True):
                point |= axis[index]
            cell = dataclasses.replace(self.base, **point)
            cells[place] = alone(cell, 0)
        return cells

    def order(self):
        """The places in the order in which they are drawn: model by model, so that each is loaded once."""
        cells = self.cells()
        models = list(dict.fromkeys(cell.model for cell in cells.values()))
        return sorted(cells, key=lambda place: models.index(cells[place].model))


TASKS = {
    "generate": GenerateRequest,
    "inpaint": InpaintRequest,
    "upscale": UpscaleRequest,
    "spot": SpotRequest,
    "refine": RefineRequest,
    "locate": LocateRequest,
    "adjust": AdjustRequest,
    "reconstruct": ReconstructRequest,
    "resample": ResampleRequest,
    "codebook": CodebookRequest,
    "measure": MeasureRequest,
    "engine": EngineRequest,
    "compare": CompareRequest,
}


@dataclass(frozen=True)
class Progress:
    """Where a running task stands: step `index` of `count` is done; `preview` may show it."""

    index: int
    count: int
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Picture:
    """One finished picture, its seed where chance had a part, and the record of the request that makes it again."""

    image: Image.Image
    seed: int | None
    record: dict | None = None


@dataclass(frozen=True)
class GenerateResult:
    """The pictures of a request, and what every result has.

    `seconds` is what it took, `memory` the most bytes that were held for it where the system tells, and `record`
    how it was made.
    """

    pictures: tuple[Picture, ...]
    seconds: float
    record: dict | None = None
    memory: int | None = None
    note: str = ""  # what the artist should know of how it went


@dataclass(frozen=True)
class InpaintResult(GenerateResult):
    """Pictures with new content under the mask; `changed` pixels outside of the feathered mask are other than before.

    `boxes` are what the model looked at: left, top, right and bottom in the picture with its new space.
    """

    boxes: tuple[tuple[int, int, int, int], ...] = ()
    changed: int = 0


@dataclass(frozen=True)
class LocateResult:
    """How much each place has to do with the words: `places (h, w)` float, the most 1 and the least 0."""

    places: np.ndarray
    seconds: float
    record: dict | None = None
    memory: int | None = None


@dataclass(frozen=True)
class ReconstructResult:
    """A picture and what a VQGAN makes of it.

    `indices` are the `(h, w)` int tokens and `tokens` the file of them; `token_map` shows them in
    colours at the size of the picture; `psnr` is in dB, `bits_per_pixel` counts `log2(n_embed)` bits a
    token, `perplexity` is the effective number of codes in use. A KL autoencoder has no tokens: their
    fields are None. What was made from tokens alone has no `source` and nothing that compares with one.
    """

    reconstruction: Image.Image
    seconds: float
    source: Image.Image | None = None
    difference: Image.Image | None = None
    psnr: float | None = None
    ssim: float | None = None
    record: dict | None = None
    memory: int | None = None
    token_map: Image.Image | None = None
    indices: np.ndarray | None = None
    tokens: bytes | None = None
    bits_per_pixel: float | None = None
    codes_used: int | None = None
    n_embed: int | None = None
    perplexity: float | None = None


@dataclass(frozen=True)
class ResampleResult:
    """The tokens of a picture after some were drawn anew, as a file."""

    tokens: bytes
    seconds: float
    record: dict | None = None
    memory: int | None = None


@dataclass(frozen=True)
class MeasureResult:
    """How far two pictures are from each other.

    `psnr` is in dB, infinite for equal ones; `distance` is on a random network's features; the `largest` difference of
    a channel of a pixel and the `mean` of all are in levels of 0 to 255.
    """

    psnr: float
    ssim: float
    distance: float
    largest: int
    mean: float
    seconds: float


@dataclass(frozen=True)
class EngineResult:
    """The engine's device by name, its memory in bytes where that is known, and bytes by the ids of loaded models."""

    device: str
    memory: int | None
    budget: int
    loaded: dict[str, int]


@dataclass(frozen=True)
class CodebookResult:
    """A patch of `factor x factor` pixels a code on one sheet, code after code in rows of `columns`.

    `by_colour` holds all codes, neighbours of like colour.
    """

    sheet: Image.Image
    columns: int
    factor: int
    by_colour: tuple[int, ...]
    seconds: float
    record: dict | None = None
    memory: int | None = None


def control(request_class, name):
    """The default, bounds, choices and help of one field, as the page and the tests read them."""
    for item in dataclasses.fields(request_class):
        if item.name == name:
            return {"default": item.default, **item.metadata}
    raise KeyError(name)


def task_of(request):
    """The name of the task that a request asks for."""
    return next(task for task, kind in TASKS.items() if kind is type(request))


def to_json(request):
    """A request as JSON text; pictures inside it become base64."""
    return json.dumps(_plain(request), ensure_ascii=False)


def _plain(request):
    values = {"task": task_of(request)}
    for item in dataclasses.fields(request):
        value = getattr(request, item.name)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        values[item.name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return values


def from_json(text):
    """The request that `to_json` wrote. Raises `BadRequest` for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable() from error
    return _from_plain(values)


def _from_plain(values):
    try:
        values = dict(values)
        kind = TASKS[values.pop("task")]
        if kind is CompareRequest:
            axes = tuple(tuple(dict(point) for point in axis) for axis in values["axes"])
            return CompareRequest(_from_plain(values["base"]), axes)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable() from error
    known = {item.name for item in dataclasses.fields(kind)}
    extra = sorted(set(values) - known)
    if extra:
        raise BadRequest(f"These settings name fields that this version does not know: {', '.join(extra[:3])}.")
    for item in dataclasses.fields(kind):
        if item.type in (bytes, bytes | None) and isinstance(values.get(item.name), str):
            try:
                values[item.name] = base64.b64decode(values[item.name], validate=True)
            except ValueError as error:
                raise BadRequest("The picture in these settings is damaged; choose it again.") from error
    return kind(**values)


def _unreadable():
    return BadRequest("These settings are not of this studio: they hold no request that can be read.")
