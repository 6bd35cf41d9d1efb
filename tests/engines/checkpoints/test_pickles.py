"""Pickles: tensors come out as they went in, and nothing else is ever done."""

import io
import os
import pickle
import socket
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engines.checkpoints import pickles
from engines.errors import BadCheckpoint
from tests.engines.test_esrgan import SMALL


def tensors():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 4, generator=generator)
    return {"a.weight": whole, "a.half": whole[:3].half(), "turned": whole.T, "count": torch.tensor(7)}


@pytest.mark.parametrize("within", ["", *pickles.WITHIN])
def test_tensors_come_out_as_they_went_in(tmp_path, within):
    state = tensors()
    torch.save({within: state, "epoch": 3} if within else state | {"epoch": 3}, tmp_path / "old.ckpt")
    report = pickles.convert(tmp_path / "old.ckpt", tmp_path / "new.safetensors")
    found = load_file(tmp_path / "new.safetensors")
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype
    assert report["within"] == within and report["tensors"] == 4
    assert report["left_out"] == ([] if within else ["epoch"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.safetensors", "old.ckpt"]


def test_the_format_before_zip_is_read(tmp_path):
    torch.save(tensors(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    pickles.convert(tmp_path / "old.pt", tmp_path / "new.safetensors")
    assert torch.equal(load_file(tmp_path / "new.safetensors")["turned"], tensors()["turned"])


def test_what_comes_out_is_a_model(tmp_path):
    from engines import catalog

    torch.save({"params_ema": SMALL["srvgg"](4).state_dict()}, tmp_path / "net.pth")
    pickles.convert(tmp_path / "net.pth", tmp_path / "net.safetensors")
    assert catalog.read(tmp_path / "net.safetensors").family == "srvgg"


# ---------------------------------------------------------------- the hostile ones

MARK = "/tmp/atelier-was-here"


class Calls:
    """A pickle that calls a function as it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HOSTILE = {
    "a shell": lambda: Calls(os.system, f"touch {MARK}"),
    "eval": lambda: Calls(eval, f"open({MARK!r}, 'w')"),
    "exec": lambda: Calls(exec, f"open({MARK!r}, 'w')"),
    "open": lambda: Calls(open, MARK, "w"),
    "a socket": lambda: Calls(socket.create_connection, ("127.0.0.1", 9)),
    "an import": lambda: Calls(__import__, "antigravity"),
    "a file removed": lambda: Calls(os.remove, MARK),
    "among tensors": lambda: {"a": torch.zeros(3), "b": Calls(os.system, f"touch {MARK}")},
    "within": lambda: {"state_dict": {"a": torch.zeros(3)}, "callbacks": Calls(os.system, f"touch {MARK}")},
    "getattr": lambda: Calls(getattr, os, "system"),
    "an object": lambda: {"a": object.__new__(Calls)} | {"b": pytest},
    "a list": lambda: [torch.zeros(3)],
    "a number": lambda: 3,
    "names without tensors": lambda: {"a": 1, "b": "two"},
    "nothing": lambda: {},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_what_is_no_tensors_is_refused_with_one_sentence_and_runs_nothing(tmp_path, name, by):
    made = HOSTILE[name]()
    try:
        if by == "torch":
            torch.save(made, tmp_path / "bad.ckpt")
        else:
            (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(made))
    except (TypeError, AttributeError, pickle.PicklingError):
        pytest.skip("this cannot be written")
    assert not os.path.exists(MARK)
    with pytest.raises(BadCheckpoint, match=r"^bad.ckpt was not converted: [^\n]+\.$") as caught:
        pickles.convert(tmp_path / "bad.ckpt", tmp_path / "new.safetensors")
    assert "Traceback" not in str(caught.value)
    assert not os.path.exists(MARK)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


def called(module, name, argument):
    """The bytes of a pickle that calls a function, whatever this process may import."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def archive(data, name="archive/data.pkl", more=()):
    """The bytes of a file of torch whose pickle is `data`, beside `more` files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as parts:
        for path, content in ((name, data), ("archive/version", b"3\n"), ("archive/byteorder", b"little"), *more):
            parts.writestr(path, content)
    return stream.getvalue()


def laughs():
    """Lists in lists, each twice in the next: a thousand million million of them in a kilobyte."""
    return b"]q\0" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(50)) + b"."


def rebuilt(size):
    """A tensor of another size than what it lies in."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, stream)
    with zipfile.ZipFile(stream) as parts:
        kept = {name: parts.read(name) for name in parts.namelist()}
    (name,) = [name for name in kept if name.endswith("data.pkl")]
    assert b"K\x04\x85" in kept[name]
    kept[name] = kept[name].replace(b"K\x04\x85", b"J" + struct.pack("<i", size) + b"\x85")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as parts:
        for path, content in kept.items():
            parts.writestr(path, content)
    return stream.getvalue()


BYTES = {
    "a shell by its own name": lambda: called("posix", "system", f"touch {MARK}"),
    "a shell in an archive": lambda: archive(called("posix", "system", f"touch {MARK}")),
    "code from the network": lambda: archive(called("torch.hub", "load", "a/b")),
    "another pickle": lambda: archive(called("torch", "load", MARK)),
    "a program run by its path": lambda: archive(called("runpy", "run_path", MARK)),
    "a library of C": lambda: archive(called("ctypes", "CDLL", MARK)),
    "numbers of numpy that run": lambda: archive(called("numpy.testing._private.utils", "runstring", MARK)),
    "names above the folder": lambda: archive(b"}.", "../../data.pkl", [("../../../tmp/atelier-was-here", b"x")]),
    "a program of TorchScript": lambda: archive(b"}.", more=[
        ("archive/code/__torch__.py", f"open({MARK!r}, 'w')".encode()), ("archive/constants.pkl", b")."),
    ]),
    "a text of eight exbibytes": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "a list nested deeply": lambda: archive(b"(" * 200_000 + b"l" * 200_000 + b"."),
    "lists in lists in lists": laughs,
    "a kilobyte that unpacks to gigabytes": lambda: archive(b"\x80\x02]." + bytes(2**28)),
    "a tensor of four gigabytes in sixteen bytes": lambda: rebuilt(2**30),
    "a tensor of less than nothing": lambda: rebuilt(-4),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_what_was_written_by_hand_is_refused_with_one_sentence_and_runs_nothing(tmp_path, name):
    (tmp_path / "bad.ckpt").write_bytes(BYTES[name]())
    with pytest.raises(BadCheckpoint, match=r"^bad.ckpt was not converted: [^\n]+\.$") as caught:
        pickles.convert(tmp_path / "bad.ckpt", tmp_path / "new.safetensors")
    assert "Traceback" not in str(caught.value)
    assert not os.path.exists(MARK)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


def liar(path):
    """A file of torch whose one tensor is larger than the file says."""
    torch.save({"a": torch.zeros(16)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, bytes(8 * 2**20) if name.endswith("/data/0") else data)


@pytest.mark.parametrize("make", [
    liar,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(np.random.default_rng(0).bytes(4000)),
    lambda path: path.write_bytes(b"\x80\x02]q\x00."[:3]),
    lambda path: path.write_text("<html>not found</html>"),
    lambda path: (torch.save({"a": torch.zeros(1000)}, path), path.write_bytes(path.read_bytes()[:2000])),
])  # fmt: skip
def test_what_is_damaged_or_lies_is_refused_with_one_sentence(tmp_path, make):
    make(tmp_path / "bad.pt")
    with pytest.raises(BadCheckpoint, match=r"^bad.pt was not converted: [^\n]+\.$"):
        pickles.convert(tmp_path / "bad.pt", tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match="cannot be opened"):
        pickles.convert(tmp_path / "none.ckpt", tmp_path / "new.safetensors")


@pytest.mark.parametrize("make", [
    os.mkdir, os.mkfifo, lambda path: path.symlink_to("nothing"), lambda path: path.symlink_to("/dev/zero"),
], ids=["a folder", "a pipe", "a link to nothing", "a device without an end"])  # fmt: skip
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "bad.ckpt")
    with pytest.raises(BadCheckpoint, match="cannot be opened"):
        pickles.convert(tmp_path / "bad.ckpt", tmp_path / "new.safetensors")
