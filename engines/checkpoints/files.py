"""Weights files: safetensors whose header is checked before any memory is taken.

A model of ours keeps its family, configuration and card as JSON under the key `atelier` of the
header's metadata. Reading a header needs no torch.
"""

import functools
import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

from engines.errors import BadCheckpoint

PIPELINE = "model_index.json"  # makes a folder a pipeline of diffusers
ADAPTERS = "ip[-_]adapter*.safetensors"  # of an IP-Adapter, in the folder of its pipeline
FOLDER_TELLS = (  # names of files that say nothing
    "model", "diffusion_pytorch_model", "adapter_model", "pytorch_lora_weights", "learned_embeds",
)  # fmt: skip
MAX_HEADER = 100_000_000
MAX_JSON = 10_000_000  # bytes of a configuration
MAX_SIDES = 64  # of a tensor; torch knows no more
LONGEST_NAME = 100  # characters of what a file calls something, as errors tell it
BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


class Rows(NamedTuple):
    """Of the tensor `name` in a file, its rows from `part / parts` of them on to the next part.

    What is `transposed` in the file is turned first.
    """

    name: str
    part: int = 0
    parts: int = 1
    transposed: bool = False

    @classmethod
    def of(cls, place):
        """The rows that a name stands for, all of its tensor, or that were given as such."""
        return cls(place) if isinstance(place, str) else place

    def shape(self, shapes):
        """The shape of the tensor among `shapes`, name to shape."""
        return shapes[self.name][::-1] if self.transposed else shapes[self.name]


def stamp(path):
    """What changes with the content of a file, its time and its size, or of a folder, those of all its files.

    None where there is no file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return tuple((str(part), stamp(part)) for part in sorted(path.rglob("*")) if part.is_file())
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def read_header(path):
    """`(tensors, metadata)` of a safetensors file: name to (dtype, shape), and the decoded metadata.

    Raises `BadCheckpoint` for a file that is cut, is no safetensors, names a tensor twice, or
    declares more or fewer bytes than it holds.
    """
    path = Path(path)
    try:
        if not path.is_file():  # of a folder or a pipe nothing is read
            raise cannot_be_opened(path)
        size = path.stat().st_size
        with open(path, "rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER + 1
            if length > min(MAX_HEADER, size):
                raise BadCheckpoint(f"{called(path)} is no safetensors file, or it was cut; copy it again.")
            header = json.loads(stream.read(length).decode(), object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise cannot_be_opened(path) from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{called(path)} has a damaged header; copy the file again.") from error
    tensors, end = {}, 0
    try:
        texts = header.pop("__metadata__", {})
        for name, row in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = row["data_offsets"]
            if any(type(number) is not int for number in (begin, stop, *row["shape"])):
                raise ValueError("sides and offsets are whole numbers")
            if len(row["shape"]) > MAX_SIDES:
                raise ValueError("more sides than a tensor can have")
            expected = BYTES[row["dtype"]] * math.prod(row["shape"])
            if begin != end or stop - begin != expected or any(side < 0 for side in row["shape"]):
                raise BadCheckpoint(f"{called(path)} contradicts itself at the tensor {shown(name)}; copy it again.")
            tensors[name], end = (row["dtype"], tuple(row["shape"])), stop
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("metadata are texts")
        metadata = json.loads(texts.get("atelier", "{}"))
        if not isinstance(metadata, dict) or not isinstance(metadata.get("family", ""), str):
            raise ValueError("our part of the metadata is an object and names a family")
        if not isinstance(metadata.get("card", {}), dict):
            raise ValueError("a card is an object")
        for part in ("first_stage", "base"):
            if part in metadata and not _names_a_file(**metadata[part]):
                raise ValueError("what a model draws with is named by its file's name and hash")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadCheckpoint(f"{called(path)} has a header that cannot be understood; copy the file again.") from error
    if 8 + length + end != size:
        declared = 8 + length + end
        raise BadCheckpoint(f"{called(path)} was cut: {size} bytes where {declared} are declared; copy it again.")
    return tensors, metadata


def read_json(path):
    """What is in a file of JSON. Raises `BadCheckpoint` for one that is not there, is too large, or is no JSON."""
    path = Path(path)
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.is_file() and path.stat().st_size <= MAX_JSON:
            return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{where} is no JSON that can be read; copy the folder again.") from error
    raise BadCheckpoint(f"{where} cannot be opened; copy the folder again.")


def shown(name):
    """What a file calls something, fit for a sentence: in one line, and not too long."""
    text = "".join(letter if letter.isprintable() else "�" for letter in name[:LONGEST_NAME])
    return text + "…" * (len(name) > LONGEST_NAME)


def called(path):
    """What errors call a file: by its folder, too, where its own name says nothing."""
    path = Path(path)
    return f"{path.parent.name}/{path.name}" if path.stem in FOLDER_TELLS else path.name


def cannot_be_opened(path):
    """What is raised for a file that the system does not give."""
    return BadCheckpoint(f"{Path(path).name} cannot be opened; check that the file is there and readable.")


def _names_a_file(name, sha256):
    texts = isinstance(name, str) and isinstance(sha256, str)
    return texts and name == Path(name).name and name.isprintable() and 0 < len(name) < 200 and len(sha256) == 64


def _no_duplicates(pairs):
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def check(path, expected, names=None, unused=()):
    """Raise `BadCheckpoint` naming the first three differences from `expected`, as `load` does; no tensor is read."""
    path = Path(path)
    found, _ = read_header(path)
    whole = names is None
    names = {name: name for name in expected} if whole else names
    places = {name: Rows.of(place) for name, place in names.items()}
    left_out, used = set(unused), {place.name for name, place in places.items() if name in expected}
    missing = [name for name in expected if name not in places or places[name].name not in found]
    # what lies in one tensor of the file is missing once
    problems = [f"{shown(name)} is missing" for name in dict.fromkeys(_called_there(name, places) for name in missing)]
    problems += [
        f"{shown(name)} is not part of the model" for name in found if name not in used and name not in left_out
    ]
    shapes = {name: shape for name, (_, shape) in found.items()}
    for name, shape in expected.items():
        if name in places and places[name].name in found:
            there = places[name].shape(shapes)
            if not _fits(there, tuple(shape), places[name].parts, whole):
                problems.append(f"{shown(places[name].name)} has shape {list(there)} instead of {list(shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise BadCheckpoint(f"{called(path)} does not fit its model: {'; '.join(problems[:3])}{more}.")


def _called_there(name, places):
    """What a tensor of ours would be called in a file, by those beside it that are there."""
    if name in places:
        return places[name].name
    longest, told = "", name
    for other, place in places.items():
        shared = os.path.commonprefix([name, other])
        shared = shared[: shared.rfind(".") + 1]
        if len(shared) > len(longest) and place.name.endswith(other.removeprefix(shared)):
            own = place.name.removesuffix(other.removeprefix(shared))
            longest, told = shared, own + name.removeprefix(shared)
    return told


def load(path, expected, names=None, unused=(), device="cpu", dtypes=None):
    """The tensors of a file on a `device`, as float32 or the `dtypes` of their names; just the shapes of `expected`.

    `expected` maps names to shapes. In a file of another program they lie under the `names`, a dict from ours to its
    own or to `Rows`, beside what is `unused`; sides of 1 at the end of a shape do not count there. The file is mapped
    into memory, and each tensor has memory of its own when it leaves it: a file may change or go while its model is
    used. Raises `BadCheckpoint` naming the first three differences, before any tensor is read, or if a value is NaN or
    infinite.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    check(path, expected, names, unused)
    places = {name: Rows.of(name if names is None else names[name]) for name in expected}
    tensors = {}
    try:
        with safe_open(path, "pt") as file:
            for name, shape in expected.items():
                place = places[name]
                found = file.get_tensor(place.name)
                found = found.t() if place.transposed else found
                if place.parts > 1:
                    found = found.chunk(place.parts)[place.part]
                found = found.reshape(shape).to(device)
                if not torch.isfinite(found).all():
                    place = shown(place.name)
                    raise BadCheckpoint(f"{called(path)} holds NaN or infinite values in {place}; it cannot be used.")
                dtype = (dtypes or {}).get(name, torch.float32) if found.is_floating_point() else found.dtype
                tensors[name] = torch.empty(shape, dtype=dtype, device=device).copy_(found)
    except SafetensorError as error:  # of a header that is stricter there than here
        raise BadCheckpoint(f"{called(path)} cannot be read as safetensors; copy the file again.") from error
    return tensors


def _fits(found, expected, parts, exactly):
    if exactly:
        return found == expected
    # a linear layer and a convolution of one pixel hold the same
    longest = max(len(found), len(expected))
    found, expected = (list(shape) + [1] * (longest - len(shape)) for shape in (found, expected))
    return found == [parts * expected[0], *expected[1:]]


def save(path, tensors, metadata=None):
    """Write tensors and metadata atomically: a temporary file, synced, then renamed."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    text = {"format": "pt"}  # without which transformers reads no file
    if metadata is not None:
        text["atelier"] = json.dumps(metadata, ensure_ascii=False)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=text)
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def name(path):
    """What a model is called: the name of its file, or of its folder where the file's says nothing."""
    path = Path(path).resolve()
    return path.parent.name if path.stem in FOLDER_TELLS else path.stem


def sha256(path, beside=None):
    """The hash of a file's content, or of all names and contents in a folder, in hexadecimal.

    Of a model in two files, that of the hashes of `path` and of the other one, `beside`.
    """
    if beside:
        return hashlib.sha256(f"{sha256(path)}\n{sha256(beside)}\n".encode()).hexdigest()
    if Path(path).is_dir():
        parts = sorted(part for part in Path(path).rglob("*") if part.is_file())
        listed = "".join(f"{part.relative_to(path).as_posix()} {sha256(part)}\n" for part in parts)
        return hashlib.sha256(listed.encode()).hexdigest()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path, beside=None):
    """`sha256`, reckoned once for each content: every look at the catalog and every picture asks for it."""
    return _sha256(path, beside, stamp(path), stamp(beside) if beside else None)


@functools.lru_cache(maxsize=1024)
def _sha256(path, beside, *stamps):
    return sha256(path, beside)
