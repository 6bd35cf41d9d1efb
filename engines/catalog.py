"""The one table of models: the shipped ones of `assets/` and the artist's own of `home/models/`.

Only headers of files are read, so that the table needs no torch and no memory for weights.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from engines import classical
from engines.checkpoints import autoencoders, files, foreign, stable_diffusion
from engines.errors import AtelierError, BadCheckpoint, BadRequest, unknown
from engines.text.tokenizer import Tokenizer

ASSETS = Path(__file__).parent.parent / "assets"
TASKS = {  # of each family; the first of the catalog that is able is the default, so that the quickest goes first
    "vqgan": ("reconstruct",),
    "kl": ("reconstruct",),
    "taesd": ("reconstruct",),
    "few-step-diffusion": ("generate",),
    "latent-diffusion": ("generate", "inpaint", "refine", "locate"),
    "stable-diffusion": ("generate", "inpaint", "refine", "locate"),  # 1, 2 and XL, as published
    "token-transformer": ("generate", "resample", "inpaint"),
    "taming-transformer": ("generate",),
    "upscaler": ("upscale",),
    "rrdb": ("upscale",),  # Real-ESRGAN's, as the artist has them
    "srvgg": ("upscale",),
    "spandrel": ("upscale",),  # any other that it knows, where it is installed
    "clip": (),
    "lora": (),  # named in a prompt, as is the next
    "embedding": (),
    "diffusers": ("generate", "inpaint"),  # a folder of a pipeline
    "classical-inpainting": ("inpaint",),  # of OpenCV: there is no file
    "classical-upscaling": ("upscale",),
}

CARD = "card.md"  # beside the `model.safetensors` of a folder
SHOWN = ("title", "licence", "about")  # texts of a card
OURS = "-ours"  # after the name of a pipeline of diffusers: the same weights by our engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """One row of the table; `card` tells of data, training, quality and limits."""

    id: str
    family: str
    tasks: tuple[str, ...]
    path: Path | None  # of its file or folder, where it has one
    bytes: int
    licence: str
    card: dict
    first_stage: dict | None = None  # `name` and `sha256` of the autoencoder that it draws with
    base: dict | None = None  # the same of the model that it makes quicker
    beside: Path | None = None  # of its other half, where it lies in two files
    size: int = 0  # pixels a side of the pictures that it draws best, where that is told
    larger: bool = False  # whether an autoencoder has a head for pictures of twice the sides, too


def catalog(home=None):
    """Every model by its id, the shipped ones first, those in the order of their families in TASKS.

    A file that cannot be read is logged and left out.
    """
    paths = sorted(ASSETS.glob("*/model.safetensors"))
    if home:
        own = Path(home) / "models"
        folders = sorted(path.parent for path in own.rglob(files.PIPELINE))
        files_alone = (path for path in own.rglob("*.safetensors") if not any(map(path.is_relative_to, folders)))
        paths += sorted([*files_alone, *folders])
    rows = {}
    for path in paths:
        try:
            found = _rows(path)
        except AtelierError as error:
            log.warning("%s is not in the catalog: %s", path, error)
            continue
        for row in found:
            if row.id in rows:
                log.warning("%s is not in the catalog: the name %s is taken by %s.", path, row.id, rows[row.id].path)
                continue
            rows[row.id] = row
    for name, method in classical.METHODS.items():
        about = {"about": method.about}
        row = Model(name, method.family, TASKS[method.family], None, 0, "Apache-2.0 (OpenCV)", about)
        rows.setdefault(name, row)
    rows = {name: _of_largest(row, rows) for name, row in rows.items()}
    return dict(sorted(rows.items(), key=lambda item: _place(item[1])))


def _place(row):
    # where a shipped model stands; all others follow, as they come
    families = list(TASKS)
    return families.index(row.family) if row.path and row.path.is_relative_to(ASSETS) else len(families)


def _of_largest(row, rows):
    # what draws with an autoencoder of two heads draws pictures of twice the sides that it learned from
    stage = row
    try:
        while other := _drawn_with(stage, rows):
            stage = other
    except AtelierError:  # told when the model is loaded
        return row
    return dataclasses.replace(row, size=2 * row.size) if stage.larger else row


def _rows(path):
    # none of the half of a model that the row of the other half takes, two of a pipeline that our engine can run, too
    if path.is_file() and foreign.recognised(path)[0].family == autoencoders.TINY_ENCODER:
        return []
    row = read(path)
    ours = _ours(row)
    return [dataclasses.replace(row, size=ours[0].size), *ours] if ours else [row]


def read(path):
    """The row of one file, of the `model.safetensors` in a folder, or of the diffusers pipeline in a folder."""
    path = Path(path)
    if (path / files.PIPELINE).exists():
        weights = sum(part.stat().st_size for part in path.rglob("*.safetensors") if part.is_file())
        return Model(files.name(path), "diffusers", TASKS["diffusers"], path, weights, "unknown", {})
    path = path / "model.safetensors" if path.is_dir() else path
    layout, metadata = foreign.recognised(path)
    family = layout.family
    if family == autoencoders.TINY_ENCODER:
        raise BadCheckpoint(f"{path.name} is the encoder of a tiny autoencoder; name the file of its decoder instead.")
    if family not in TASKS:
        raise BadCheckpoint(f"{path.name} is no model of a known family; known are: {', '.join(TASKS)}.")
    card = {name: value for name, value in metadata.get("card", {}).items() if name not in SHOWN or type(value) is str}
    return Model(
        id=files.name(path),
        family=family,
        tasks=TASKS[family],
        path=path,
        bytes=sum(part.stat().st_size for part in (path, layout.beside) if part),
        licence=card.get("licence", "unknown"),
        card=card,
        first_stage=metadata.get("first_stage"),
        base=metadata.get("base"),
        beside=layout.beside,
        size=_size(layout.config),
        larger=family == "vqgan" and _larger(layout.config),
    )


def _larger(config):
    shape = config.get("autoencoder") if isinstance(config, dict) else None
    blocks = shape.get("larger") if isinstance(shape, dict) else None
    return type(blocks) is int and blocks > 0


def _size(config):
    size = config.get("size") if isinstance(config, dict) else None
    return size if type(size) is int else 0


def _ours(row):
    """A pipeline of diffusers that our own engine can run, too, as a row of its own beside that of diffusers."""
    try:
        found = stable_diffusion.in_folder(row.path) if row.family == "diffusers" else None
    except AtelierError as error:
        log.warning("%s is run by diffusers alone: %s", row.path, error)
        return []
    if not found:
        return []
    family = stable_diffusion.FAMILY
    return [dataclasses.replace(row, id=f"{row.id}{OURS}", family=family, tasks=TASKS[family], size=_size(found[0]))]


def tokenizer(row, home=None):
    """The tokenizer that the model of a row reads words by; None for one that has none.

    Raises `BadCheckpoint` for one whose vocabulary is not here.
    """
    if row.base:
        return tokenizer(drawn_with(row, home))
    if row.path is None or row.family == "diffusers":
        return None
    config = _config(row)
    if row.family == stable_diffusion.FAMILY:
        return stable_diffusion.tokenizer(config, row.path)
    if "tokenizer" not in config:
        return None
    try:
        return Tokenizer(config["tokenizer"], config["text"]["context_length"])
    except (KeyError, TypeError) as error:
        raise BadCheckpoint(f"{row.path.name} does not say how it reads words; copy the file again.") from error


def _config(row):
    # of what our own engine runs
    if row.path.is_dir():
        return stable_diffusion.in_folder(row.path)[0]
    config = foreign.recognised(row.path)[0].config
    return config if isinstance(config, dict) else {}


def card(row):
    """The card of a row as files of a folder, name to content: README.md, and the pictures that it shows.

    It is the `CARD` beside a `model.safetensors`, or else what the header of the file tells.
    """
    folder = row.path.parent if row.path and row.path.name == "model.safetensors" else None
    if folder is None or not (folder / CARD).exists():
        facts = {"family": row.family, "licence": row.licence} | row.card
        table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
        return {"README.md": f"# {row.id}\n\n| | |\n|---|---|\n{table}"}
    text = (folder / CARD).read_text(encoding="utf-8")
    shown = {path.name: path.read_bytes() for path in folder.iterdir() if f"]({path.name})" in text}
    return {"README.md": text} | shown


def find(name, task=None, home=None, paths=True):
    """The model called `name`, or lying at the path `name`, or for an empty name the first, that can do `task`.

    Without a `task`, any model; without `paths`, none but those of the catalog. Raises `BadRequest` for an
    unknown name and for a model of other tasks.
    """
    rows = catalog(home)
    able = {row.id: row for row in rows.values() if task is None or task in row.tasks}
    if not name and able:
        return next(iter(able.values()))
    row = rows.get(name) or (_of_largest(read(name), rows) if paths and name and Path(name).exists() else None)
    if row is None:
        raise unknown("model", name, able)
    if task and task not in row.tasks:
        raise BadRequest(f"The model “{row.id}” cannot {task}; choose one of: {', '.join(able)}.")
    return row


def autoencoders_for(row, home=None):
    """The rows of the autoencoders that the model of `row` can draw with instead of its own."""
    return [other for other in catalog(home).values() if _draws_with(row, other)]


def autoencoder(name, row, home=None, paths=True):
    """The row of the autoencoder called `name`, or lying at the path `name`, for the model of `row` to draw with.

    Without `paths`, none but those of the catalog. Raises `BadRequest` for one that the model cannot draw with.
    """
    other = find(name, None, home, paths)
    if not _draws_with(row, other):
        able = ["its own, by an empty name", *(fitting.id for fitting in autoencoders_for(row, home))]
        raise BadRequest(f"“{row.id}” cannot draw with “{other.id}”; choose one of: {', '.join(able)}.")
    return other


def _draws_with(row, other):
    # of Stable Diffusion's latents there are other autoencoders
    if row.family != stable_diffusion.FAMILY or other.family not in ("kl", autoencoders.TINY):
        return False
    try:
        return autoencoders.latents(_config(other)) == autoencoders.latents(_config(row)["first_stage"])
    except (AttributeError, KeyError, TypeError):  # of a file that says of itself what it is not
        return False


def drawn_with(row, home=None):
    """The row of the autoencoder or model that the one of `row` draws with: beside its file, or else in the catalog.

    None for a model that needs no other. Raises `BadCheckpoint` where none of that name has the content that the
    model was trained with.
    """
    return _drawn_with(row, catalog(home))


def _drawn_with(row, rows):
    wanted, task = (row.base, "generate") if row.base else (row.first_stage, "reconstruct")
    if not wanted:
        return None
    name, sha256 = wanted["name"], wanted["sha256"]
    folder = row.path.resolve().parent
    paths = [folder / f"{name}.safetensors", folder.parent / name / "model.safetensors"]
    found = [read(path) for path in paths if path.exists()]
    found += [rows[name]] if name in rows else []
    for candidate in found:
        if task in candidate.tasks and files.known_sha256(candidate.path, candidate.beside) == sha256:
            return candidate
    what = f"is not the one that is here: its SHA-256 begins with {sha256[:8]}" if found else "is not here"
    raise BadCheckpoint(
        f"“{row.id}” draws with “{name}”, which {what}; put that file beside {row.path.name}, as {name}.safetensors."
    )
