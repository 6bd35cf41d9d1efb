"""Weights files: what is written comes back, and no damaged file is believed."""

import hashlib
import json
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from engines.checkpoints import files
from engines.errors import BadCheckpoint

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).view(2, 3) / 7,
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "scale": torch.tensor(0.25, dtype=torch.bfloat16),
    "counts": torch.tensor([[1, 2**40]]),
    "none": torch.zeros(0, 4),
}
SHAPES = {name: value.shape for name, value in TENSORS.items()}
METADATA = {"family": "vqgan", "config": {"ch": 8, "ch_mult": [1, 2]}, "card": {"title": "Füchse 狐狸", "loss": 0.5}}


@pytest.fixture
def path(tmp_path):
    files.save(tmp_path / "model.safetensors", TENSORS, METADATA)
    return tmp_path / "model.safetensors"


def write(path, header, data=b""):
    """A file of this header, given as JSON-able or as the very bytes."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def row(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(call, words):
    """One sentence that names the file, and nothing of a traceback."""
    with pytest.raises(BadCheckpoint, match=words) as caught:
        call()
    sentence = str(caught.value)
    assert "model.safetensors" in sentence and "\n" not in sentence and sentence.endswith(".")


def test_tensors_come_back_as_float32(path):
    found = files.load(path, SHAPES)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(found[name], value.to(found[name].dtype))


def test_header_and_metadata_come_back(path):
    tensors, metadata = files.read_header(path)
    assert metadata == METADATA
    assert tensors == {
        "a.weight": ("F32", (2, 3)), "a.bias": ("F16", (2,)), "scale": ("BF16", ()), "counts": ("I64", (1, 2)),
        "none": ("F32", (0, 4)),
    }


def test_safetensors_reads_what_we_write(path):
    found = safetensors.torch.load_file(path)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in TENSORS.items())
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["atelier"]) == METADATA


def test_we_read_what_safetensors_writes(tmp_path):
    """A published file: no metadata of ours, or of somebody else's, and every type of number."""
    arrays = {
        np.dtype(kind).name: np.arange(6).astype(kind).reshape(2, 3)
        for kind in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    }
    for metadata in (None, {"format": "pt"}):
        safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata=metadata)
        tensors, found = files.read_header(tmp_path / "model.safetensors")
        assert found == {} and tensors.keys() == arrays.keys()
    loaded = files.load(tmp_path / "model.safetensors", {name: array.shape for name, array in arrays.items()})
    assert all(np.array_equal(loaded[name].numpy(), array) for name, array in arrays.items())


def test_a_view_is_written_as_the_values_it_shows(tmp_path):
    turned = torch.arange(6.0).view(2, 3).T
    files.save(tmp_path / "model.safetensors", {"turned": turned})
    assert torch.equal(files.load(tmp_path / "model.safetensors", {"turned": (3, 2)})["turned"], turned)


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in (*range(12), *range(12, len(whole), 11)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadCheckpoint):
            files.read_header(path)
    path.write_bytes(whole[:-1])
    refused(lambda: files.load(path, SHAPES), "was cut")
    path.write_bytes(whole + b"\0")
    refused(lambda: files.read_header(path), "was cut|declared")


@pytest.mark.parametrize("content", [
    b"", b"short", b"PK\x03\x04" + b"\0" * 200, b"\x80\x02}q\x00." * 30, b"<html>not found</html>" * 9,
], ids=["empty", "seven bytes", "zip", "pickle", "page"])
def test_another_kind_of_file_is_refused(path, content):
    path.write_bytes(content)
    refused(lambda: files.read_header(path), "no safetensors file")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    refused(lambda: files.read_header(tmp_path / "model.safetensors"), "cannot be opened")
    (tmp_path / "model.safetensors").mkdir()
    refused(lambda: files.read_header(tmp_path / "model.safetensors"), "model.safetensors")


@pytest.mark.parametrize("header", [
    b"{", b"\xff\xfe{}", b'{"a": }', b"[" * 50_000, b"{} {}",
], ids=["cut", "no text", "no JSON", "deep", "two"])
def test_a_header_that_is_no_json_is_refused(path, header):
    refused(lambda: files.read_header(write(path, header)), "damaged header")


A = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize("header", [
    f"{{{A}, {A}}}", f'{{{A}, "\\u0061": {{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}}}',
    '{"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}',
], ids=["a tensor", "a tensor, escaped", "a field"])
def test_a_name_twice_is_refused(path, header):
    refused(lambda: files.read_header(write(path, header.encode(), bytes(8))), "damaged header")


@pytest.mark.parametrize("header", [
    [], 3, "a", None, {"a": 3}, {"a": None}, {"a": {}}, {"a": row([1], 0, 4) | {"dtype": "F31"}},
    {"a": row([1], 0, 4) | {"dtype": []}}, {"a": row("1", 0, 4)}, {"a": row(None, 0, 4)}, {"a": row([None], 0, 4)},
    {"a": row([1], 0, 4) | {"data_offsets": [0]}}, {"a": row([1], 0, 4) | {"data_offsets": [0, 2, 4]}},
    {"a": row([1], None, 4)}, {"a": row([1], 0, "4")}, {"a": row([1], 0, 4), "b": row([1], "4", 8)},
    {"__metadata__": 3, "a": row([1], 0, 4)}, {"__metadata__": {"atelier": "{"}, "a": row([1], 0, 4)},
    {"__metadata__": {"atelier": 3}, "a": row([1], 0, 4)}, {"__metadata__": {"atelier": None}},
    {"a": row([1.0], 0, 4)}, {"a": row([True], 0, 4)}, {"a": row([1], 0.0, 4)}, {"a": row([1], False, 4)},
    {"__metadata__": {"note": 3}, "a": row([1], 0, 4)}, {"__metadata__": [], "a": row([1], 0, 4)},
    {"__metadata__": {"atelier": "[1]"}, "a": row([1], 0, 4)}, {"__metadata__": {"atelier": "3"}, "a": row([1], 0, 4)},
    {"__metadata__": {"atelier": "[" * 50_000}, "a": row([1], 0, 4)},
    {"__metadata__": {"atelier": '{"family": []}'}, "a": row([1], 0, 4)},
    {"__metadata__": {"atelier": '{"family": "vqgan", "card": "x"}'}, "a": row([1], 0, 4)},
], ids=lambda header: str(header)[:90])
def test_a_header_of_another_form_is_refused(path, header):
    refused(lambda: files.read_header(write(path, header, bytes(4))), "model.safetensors")


@pytest.mark.parametrize("header, size", [
    ({"a": row([2], 0, 4)}, 4),
    ({"a": row([1], 0, 8)}, 8),
    ({"a": row([1], 0, 4, "F16")}, 4),
    ({"a": row([1], 4, 8)}, 8),
    ({"a": row([1], -4, 0)}, 4),
    ({"a": row([1], 4, 0)}, 4),
    ({"a": row([1], 0, 4), "b": row([1], 8, 12)}, 12),
    ({"a": row([1], 0, 4), "b": row([1], 0, 4)}, 8),
    ({"a": row([2], 0, 8), "b": row([1], 4, 8)}, 8),
], ids=["too few bytes", "too many bytes", "narrower type", "gap before", "before the start", "backwards",
        "gap between", "one place for two", "overlap"])
def test_sizes_that_contradict_each_other_are_refused(path, header, size):
    refused(lambda: files.read_header(write(path, header, bytes(size))), "contradicts itself at the tensor")


@pytest.mark.parametrize("shape", [[-1], [-1, -1], [-2, -2], [0, -1]], ids=str)
def test_negative_sides_are_refused(path, shape):
    """Two negative sides make a positive product, which fits the bytes."""
    size = max(0, 4 * int(np.prod(shape)))
    header = {"a": row(shape, 0, size)}
    refused(lambda: files.read_header(write(path, header, bytes(size))), "contradicts itself at the tensor a")


@pytest.mark.parametrize("make", [
    lambda path: write(path, {"a": row([2**20, 2**20], 0, 2**42)}, bytes(64)),
    lambda path: write(path, {"a": row([2**32, 2**32], 0, 0)}, bytes(64)),
    lambda path: path.write_bytes(struct.pack("<Q", 2**42) + bytes(64)),
    lambda path: path.write_bytes(struct.pack("<Q", 2**64 - 1) + bytes(64)),
], ids=["a tensor of 4 TiB", "a product that overflows 64 bits", "a header of 4 TiB", "the longest header"])
def test_terabytes_take_no_memory(path, make):
    make(path)
    tracemalloc.start()
    try:
        refused(lambda: files.load(path, {"a": (2**20, 2**20)}), "model.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def without(*names):
    return {name: shape for name, shape in SHAPES.items() if name not in names}


@pytest.mark.parametrize("expected, words", [
    (SHAPES | {"b.weight": (3,)}, "b.weight is missing"),
    (without("a.bias"), "a.bias is not part of the model"),
    (SHAPES | {"a.weight": (3, 2)}, r"a.weight has shape \[2, 3\] instead of \[3, 2\]"),
    (SHAPES | {"a.bias": (2, 1)}, r"a.bias has shape \[2\] instead of \[2, 1\]"),
    (SHAPES | {"scale": (1,)}, r"scale has shape \[\] instead of \[1\]"),
    ({}, "and 2 more"),
    ({f"layer{i}": (1,) for i in range(4)} | SHAPES, "layer0 is missing; layer1.*; layer2 is missing and 1 more"),
])
def test_weights_of_another_model_are_refused_by_name(path, expected, words):
    refused(lambda: files.load(path, expected), f"does not fit its model: .*{words}")


def test_a_misfit_is_found_before_the_weights_are_read(path, monkeypatch):
    monkeypatch.setattr(safetensors.torch, "load_file", lambda *_: pytest.fail("the weights were read"))
    refused(lambda: files.load(path, without("scale")), "scale is not part")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["a.weight", "a.bias", "scale"])
def test_values_that_are_no_numbers_are_refused(path, name, wrong):
    """In each precision; one value is enough."""
    spoiled = TENSORS[name].clone()
    spoiled.view(-1)[-1] = wrong
    files.save(path, TENSORS | {name: spoiled})
    refused(lambda: files.load(path, SHAPES), f"NaN or infinite values in {name}")


def test_a_save_replaces_the_file_whole(path):
    files.save(path, {"b": torch.ones(3)}, {"family": "kl"})
    assert files.read_header(path) == ({"b": ("F32", (3,))}, {"family": "kl"})
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing is left beside it


@pytest.mark.parametrize("where", ["safetensors.torch.save_file", "os.fsync", "os.replace"])
def test_a_failing_save_leaves_the_old_file(path, monkeypatch, where):
    """A full disk while writing, while syncing, or at the rename."""
    before = path.read_bytes()

    def full(*args, **options):
        if where.endswith("save_file"):
            args[1].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match="No space"):
        files.save(path, {"b": torch.ones(3)})
    assert path.read_bytes() == before
    monkeypatch.undo()
    files.save(path, {"b": torch.ones(3)})  # and the next one succeeds
    assert files.load(path, {"b": (3,)})["b"].tolist() == [1, 1, 1]


def test_the_file_is_whole_and_synced_before_it_gets_its_name(path, monkeypatch):
    old, events = path.read_bytes(), []
    fsync, replace = files.os.fsync, files.os.replace

    def note_sync(handle):
        fsync(handle)
        events.append("sync")

    def note_replace(source, target):
        assert path.read_bytes() == old
        assert files.read_header(source)[0] == {"b": ("F32", (3,))}
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", note_sync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    files.save(path, {"b": torch.ones(3)})
    assert events[:2] == ["sync", "rename"]


def test_a_save_makes_its_folder(tmp_path):
    files.save(tmp_path / "runs" / "today" / "model.safetensors", TENSORS)
    assert files.read_header(tmp_path / "runs" / "today" / "model.safetensors")[1] == {}


def test_sha256_is_that_of_the_content(path):
    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"abc")  # the first example of FIPS 180-2
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
