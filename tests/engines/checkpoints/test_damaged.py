"""Damaged, wrong and hostile models: one sentence each, nothing run, no memory taken, and the model in use goes on."""

import io
import json
import os
import resource
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engines import catalog
from engines.checkpoints import files
from engines.engine import Engine
from engines.errors import BadCheckpoint
from tests import tiny
from tests.engines.checkpoints.test_files import row
from tests.engines.checkpoints.test_stable_diffusion import WORDS, Parts, write_vocabulary
from tests.engines.test_esrgan import SMALL
from tests.peers import pipeline

ROOM = 100 * 2**20  # bytes that refusing may take; the sizes that are claimed below are thousands of times as much
MARK = "/tmp/atelier-was-here"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Sound models of every layout, to be damaged, by name."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.save(folder / "painter.safetensors", tiny.latent_diffusion())
    tiny.save(folder / "upscaler.safetensors", tiny.upscaler())
    save_file(SMALL["rrdb"](4).state_dict(), folder / "rrdb.safetensors")
    words = folder / "tokenizer"
    words.mkdir()
    write_vocabulary(words)
    for version in (1, 2):
        save_file(Parts(version, 4, words).single_file(), folder / f"sd{version}.safetensors")
    pipeline(
        words, 12, vocab_size=len(WORDS), intermediate_size=128, num_hidden_layers=1,
        bos_token_id=len(WORDS) - 2, eos_token_id=len(WORDS) - 1,
    ).save_pretrained(folder / "peer")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory, whole):
    """An engine with a model in use, its home, and what that model draws."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(whole, home / "models", ignore=shutil.ignore_patterns("peer", "sd*", "rrdb*", "upscaler*"))
    engine = Engine(home, "cpu")
    return engine, home, drawn(engine)


def drawn(engine):
    return np.asarray(engine.run(tiny.request(model="painter", steps=1)).pictures[0].image)


def refused(studio, path, words, found=None):
    """Asserts all that the first line of this file says of the model at `path`, or of its row that was `found`."""
    engine, home, before = studio
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "painter" in catalog.catalog(home)  # one bad file hides no other
    with pytest.raises(BadCheckpoint, match=words) as caught:
        engine.load(found or catalog.read(path))
    sentence = str(caught.value)
    assert sentence.isprintable() and sentence.endswith(".") and len(sentence) < 800 and "Traceback" not in sentence
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024 < ROOM
    assert not os.path.exists(MARK)
    assert np.array_equal(drawn(engine), before)


@pytest.fixture
def place(studio):
    """Where in the home the bad one lies."""
    folder = studio[1] / "models" / "bad"
    folder.mkdir()
    shutil.copy(studio[1] / "models" / "mirror.safetensors", folder)
    (folder / "tokenizer").symlink_to(studio[1] / "models" / "tokenizer")
    yield folder
    shutil.rmtree(folder)


# ---------------------------------------------------------------- what is no whole weights file


def cut(share):
    return lambda data: data[: int(share * len(data))]


def header(change):
    """The file with another header, `change(header) -> header`; its data stay."""

    def changed(data):
        length = struct.unpack("<Q", data[:8])[0]
        new = change(json.loads(data[8 : 8 + length]))
        new = new if isinstance(new, bytes) else json.dumps(new).encode()
        return struct.pack("<Q", len(new)) + new + data[8 + length :]

    return changed


def first(**fields):
    """The header with other fields of the first tensor."""

    def changed(found):
        name = next(name for name in found if name != "__metadata__")
        return found | {name: found[name] | fields}

    return header(changed)


def png():
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    return stream.getvalue()


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../evil.py", "x" * 4000)
    return stream.getvalue()


def pickled():
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(300)}, stream)
    return stream.getvalue()


NO_FILE, BROKEN, STRANGE = "no safetensors file", "damaged header", "cannot be understood"
BYTES = {
    "empty": (lambda data: b"", NO_FILE),
    "a text": (lambda data: b"oid sha256:0\nsize 4000\n" * 30, NO_FILE),
    "a page": (lambda data: b"<!doctype html><title>404</title>" * 9, NO_FILE),
    "a zip": (lambda data: zipped(), NO_FILE),
    "a PNG": (lambda data: png(), NO_FILE),
    "a pickle": (lambda data: pickled(), NO_FILE),
    "a GGUF": (lambda data: b"GGUF" + data[4:], NO_FILE),
    "noise": (lambda data: np.random.default_rng(0).bytes(5000), NO_FILE),
    "zeros": (lambda data: bytes(len(data)), BROKEN),
    "cut in its length": (lambda data: data[:7], NO_FILE),
    "cut after its length": (lambda data: data[:8], NO_FILE),
    "cut in its header": (lambda data: data[:200], NO_FILE),
    "cut in a tenth": (cut(0.1), "was cut|no safetensors"),
    "cut in half": (cut(0.5), "was cut"),
    "without its last byte": (lambda data: data[:-1], "was cut"),
    "with a byte more": (lambda data: data + b"\0", "declared"),
    "twice": (lambda data: data + data, "declared"),
    "a header of no length": (lambda data: bytes(8) + data[8:], BROKEN),
    "a header of 4 TiB": (lambda data: struct.pack("<Q", 2**42) + data[8:], NO_FILE),
    "a header of less than nothing": (lambda data: struct.pack("<q", -1) + data[8:], NO_FILE),
    "a header as long as the file": (lambda data: struct.pack("<Q", len(data) - 8) + data[8:], BROKEN),
    "a header in another code": (header(lambda found: json.dumps(found).encode("utf-16")), BROKEN),
    "a header with broken text": (header(lambda found: b'{"\xff": 1}'), BROKEN),
    "a header nested deeply": (header(lambda found: b'{"a":' * 90_000), BROKEN),
    "a header that is a list": (header(lambda found: [found]), STRANGE),
    "a name twice": (header(lambda found: json.dumps(found).encode()[:-1] + b', "a": 1, "a": 2}'), BROKEN),
    "overlapping tensors": (first(data_offsets=[0, 8]), "contradicts itself"),
    "a gap between tensors": (first(data_offsets=[4, 12]), "contradicts itself"),
    "offsets backwards": (first(data_offsets=[8, 0]), "contradicts itself"),
    "an unknown type of numbers": (first(dtype="F31"), STRANGE),
    "a type that is none": (first(dtype=None), STRANGE),
    "a wider type": (first(dtype="F64"), "contradicts itself"),
    "a negative side": (first(shape=[-1, -4]), "contradicts itself"),
    "a side of a quintillion": (first(shape=[2**60, 2**60]), "contradicts itself"),
    "a side that is no whole number": (first(shape=[1.5]), STRANGE),
    "a side that is a text": (first(shape=["16"]), STRANGE),
    "a hundred thousand sides": (first(shape=[2**62] * 100_000), STRANGE),
    "a tensor without a place": (first(data_offsets=None), STRANGE),
    "a name with lines": (header(lambda found: found | {"a\nb\x1b[31m" + "c" * 9000: row([1], 4, 0)}), "contradicts"),
    "metadata that is no JSON": (header(lambda found: found | {"__metadata__": {"atelier": "{"}}), STRANGE),
    "metadata that is a list": (header(lambda found: found | {"__metadata__": ["atelier"]}), STRANGE),
    "metadata nested deeply": (header(lambda found: found | {"__metadata__": {"atelier": "[" * 90_000}}), STRANGE),
}


@pytest.mark.parametrize("name", BYTES)
def test_what_is_no_whole_weights_file_is_refused(studio, whole, place, name):
    change, words = BYTES[name]
    (place / "bad.safetensors").write_bytes(change((whole / "painter.safetensors").read_bytes()))
    refused(studio, place / "bad.safetensors", words)


ELSEWHERE = {
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_no_file_is_refused(studio, place, name):
    ELSEWHERE[name](place / "bad.safetensors")
    refused(studio, place / "bad.safetensors", "safetensors cannot be opened")


# ---------------------------------------------------------------- whole files that are no models


def metadata(**changes):
    return lambda weights, told: (weights, told | changes)


def config(**changes):
    return lambda weights, told: (weights, told | {"config": told["config"] | changes})


def unet(**changes):
    return lambda weights, told: config(unet=told["config"]["unet"] | changes)(weights, told)


def tensor(**changes):
    """Other tensors under the names, the last part of which is told after two underscores."""

    def changed(weights, told):
        for name, change in changes.items():
            weights = weights | {name.replace("__", "."): change(weights[name.replace("__", ".")])}
        return weights, told

    return changed


def without(*names):
    return lambda weights, told: ({name: value for name, value in weights.items() if name not in names}, told)


def spoiled(number):
    def change(value):
        value = value.clone()
        value.view(-1)[-1] = number
        return value

    return change


UNBUILT = "cannot be built"
OUT = "unet.out.2.weight"
MODELS = {
    "an unknown family": (metadata(family="unheard-of"), "no model of a known family"),
    "a family with lines": (metadata(family="a\nb"), "no model of a known family"),
    "a family that is a number": (metadata(family=3), STRANGE),
    "a family of diffusers": (metadata(family="diffusers"), "no model of a known family"),
    "a family of spandrel": (metadata(family="spandrel"), "no model of a known family"),
    "a family of published files": (metadata(family="stable-diffusion", config={}), "no model of a known family"),
    "a family without files": (metadata(family="classical-inpainting"), "no model of a known family"),
    "another family of ours": (metadata(family="token-transformer"), UNBUILT),
    "no configuration": (metadata(config=None), UNBUILT),
    "a configuration that is a list": (metadata(config=[1]), UNBUILT),
    "a card that is a text": (metadata(card="x"), STRANGE),
    "a field that nobody knows": (config(trust_remote_code=True), UNBUILT),
    "a field that is a text": (unet(ch="16"), UNBUILT),
    "a field that is no whole number": (unet(ch=16.5), UNBUILT),
    "a field that is no number": (unet(ch=float("nan")), UNBUILT),
    "a field without an end": (unet(ch=float("inf")), UNBUILT),
    "a field below zero": (unet(num_res_blocks=-1), UNBUILT),
    "a field that is null": (config(unet=None), UNBUILT),
    "a billion blocks": (unet(num_res_blocks=10**9), UNBUILT),
    "a billion layers of words": (lambda weights, told: config(text=told["config"]["text"] | {"layers": 10**9})(
        weights, told), UNBUILT),
    "a hundred thousand levels": (unet(ch_mult=[1] * 10**5), UNBUILT),
    "a net of a billion channels": (unet(ch=2 * 10**9), UNBUILT + "|does not fit"),
    "a net of more channels than can be counted": (unet(ch=2 * 10**30), UNBUILT),
    "a size of a billion pixels": (config(size=10**9), UNBUILT),
    "latents without a spread": (config(latent_std=0.0), UNBUILT),
    "latents of a spread that is no number": (config(latent_std=float("nan")), UNBUILT),
    "latents of an endless mean": (config(latent_mean=[float("inf")] * 4), UNBUILT),
    "an unknown prediction": (config(prediction="magic"), UNBUILT),
    "a tokenizer that is none": (config(tokenizer="{"), UNBUILT),
    "a tokenizer that is a number": (config(tokenizer=3), UNBUILT),
    "no autoencoder": (metadata(first_stage=None), STRANGE),
    "an autoencoder of another hash": (metadata(first_stage={"name": "mirror", "sha256": "0" * 64}), "is not the one"),
    "an autoencoder that is not there": (metadata(first_stage={"name": "gone", "sha256": "0" * 64}), "is not here"),
    "an autoencoder elsewhere": (metadata(first_stage={"name": "../mirror", "sha256": "0" * 64}), STRANGE),
    "an autoencoder of a hash that is none": (metadata(first_stage={"name": "mirror", "sha256": ["0"] * 64}), STRANGE),
    "a tensor missing": (without(OUT), f"{OUT} is missing.$"),
    "many tensors missing": (
        lambda weights, told: ({OUT: weights[OUT]}, told), r"(\S+ is missing; ){2}\S+ is missing and \d+ more"
    ),
    "a tensor more": (lambda weights, told: (weights | {"evil": torch.zeros(2)}, told), "evil is not part"),
    "a tensor more, with lines": (
        lambda weights, told: (weights | {"a\nb" + "c" * 9000: torch.zeros(2)}, told), "a�bc+… is not part"
    ),
    "a tensor of another shape": (tensor(unet__out__2__weight=lambda value: value[:2]), f"{OUT} has shape"),
    "a tensor of fewer sides": (tensor(unet__out__2__weight=lambda value: value[..., 0]), f"{OUT} has shape"),
    "a tensor of more sides": (tensor(unet__out__2__weight=lambda value: value[None]), f"{OUT} has shape"),
    "NaN": (tensor(unet__out__2__weight=spoiled(float("nan"))), f"NaN or infinite values in {OUT}"),
    "Inf": (tensor(unet__out__2__weight=spoiled(float("inf"))), f"NaN or infinite values in {OUT}"),
    "whole numbers": (tensor(unet__out__2__weight=lambda value: value.to(torch.int8)), "whole numbers for " + OUT),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_file_that_is_no_model_of_ours_is_refused(studio, whole, place, name):
    change, words = MODELS[name]
    told = files.read_header(whole / "painter.safetensors")[1]
    files.save(place / "bad.safetensors", *change(load_file(whole / "painter.safetensors"), told))
    refused(studio, place / "bad.safetensors", words)


def renamed(part, other):
    return lambda state: {name.replace(part, other): value for name, value in state.items()}


def lacking(*parts):
    return lambda state: {name: value for name, value in state.items() if not any(part in name for part in parts)}


def more(**tensors):
    return lambda state: state | {name.replace("__", "."): value for name, value in tensors.items()}


SD = "model.diffusion_model."
UNKNOWN = "no model of a known family"
THEIRS = {  # of layouts that are recognised: the missing are told as the file itself would call them
    "a weight of the UNet": ("sd1", lacking(f"{SD}out.0.weight"), f"model: {SD}out.0.weight is missing.$"),
    "a whole layer of the UNet": (
        "sd1", lacking(f"{SD}out.0."), rf"model: {SD}out.0.weight is missing; {SD}out.0.bias is missing.$"
    ),
    "a layer of the autoencoder": (
        "sd1", lacking("first_stage_model.decoder.norm_out."), "model: first_stage_model.decoder.norm_out.weight is"
    ),
    "a layer of the words": (
        "sd1", lacking("cond_stage_model.transformer.text_model.final_layer_norm."),
        "model: cond_stage_model.transformer.text_model.final_layer_norm.weight is missing",
    ),
    "a matrix of OpenCLIP": (
        "sd2", lacking("resblocks.0.attn.in_proj_weight"),
        "model: cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight is missing.$",
    ),
    "all but the first layer": ("sd1", lacking("output_blocks", "middle_block"), "could not be|known family"),
    "a layer of an endless number": (
        "sd1", more(**{SD.replace(".", "__") + "input_blocks__999999999999__0__op__weight": torch.zeros(1)}), UNKNOWN
    ),
    "a depth of an endless number": (
        "sd1", renamed("input_blocks.1.1.transformer_blocks.0", "input_blocks.1.1.transformer_blocks.99999999"),
        "is not part of the model",
    ),
    "a number of ten thousand digits": (
        "sd1", more(**{f"{SD}input_blocks.{'9' * 9999}.": torch.zeros(1)}), UNKNOWN
    ),
    "a tensor more": ("sd1", more(evil=torch.zeros(1)), "evil is not part of the model.$"),
    "a UNet of another width": (
        "sd1", lambda state: state | {f"{SD}out.2.weight": state[f"{SD}out.2.weight"][:, :4].contiguous()},
        f"{SD}out.2.weight has shape",
    ),
    "NaN in the autoencoder": (
        "sd1", lambda state: state | {"first_stage_model.quant_conv.bias": torch.full((8,), torch.nan)},
        "NaN or infinite values in first_stage_model.quant_conv.bias",
    ),
    "an upscaler of endless blocks": ("rrdb", renamed("body.1.", "body.999999999."), "cannot be built"),
    "an upscaler without a layer": ("rrdb", lacking("conv_last.bias"), "conv_last.bias is missing"),
    "an upscaler with Inf": ("rrdb", lambda state: state | {"conv_last.bias": torch.full((3,), torch.inf)}, "infinite"),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_a_damaged_file_of_another_program_is_refused(studio, whole, place, name):
    base, change, words = THEIRS[name]
    save_file(change(load_file(whole / f"{base}.safetensors")), place / "bad.safetensors")
    refused(studio, place / "bad.safetensors", words)


# ---------------------------------------------------------------- folders


def index(change):
    return edited("model_index.json", change)


def edited(name, change):
    def act(folder):
        text = change(json.loads((folder / name).read_text()))
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))

    return act


def weights(name, change):
    def act(folder):
        save_file(change(load_file(folder / name)), folder / name, {"format": "pt"})

    return act


def evil(folder):
    code = f"open({MARK!r}, 'w')\nclass Evil:\n    pass\n"
    for name in ("evil.py", "pipeline.py", "unet/evil.py", "text_encoder/modeling_evil.py"):
        (folder / name).write_text(code)


def with_code(act):
    return lambda folder: (evil(folder), act(folder))


def hostile_pickle(folder):
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        (folder / part / f"{name}.safetensors").unlink()
        (folder / part / f"{name}.bin").write_bytes(f"cos\nsystem\n(S'touch {MARK}'\ntR.".encode())


def link(name, to):
    return lambda folder: ((folder / name).unlink(), (folder / name).symlink_to(to))


UNET, VAE, TEXT = (
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)  # fmt: skip
PART = "peer|unet|vae|text_encoder|scheduler|model.safetensors"
FOLDERS = {
    "an index that is a list": index(lambda found: [found]),
    "an index that is a number": index(lambda found: 3),
    "an index that is no JSON": index(lambda found: "{"),
    "an index nested deeply": index(lambda found: "[" * 90_000),
    "an index of broken text": lambda folder: (folder / "model_index.json").write_bytes(b"\xff\xfe{}"),
    "an index without an end": link("model_index.json", "/dev/zero"),
    "an index that is a pipe": lambda folder: (
        (folder / "model_index.json").unlink(), os.mkfifo(folder / "model_index.json")
    ),
    "an index of other parts": index(lambda found: {"_class_name": found["_class_name"]}),
    "no UNet": lambda folder: shutil.rmtree(folder / "unet"),
    "no autoencoder": lambda folder: shutil.rmtree(folder / "vae"),
    "no configuration": lambda folder: (folder / "unet" / "config.json").unlink(),
    "a configuration that is a list": edited("unet/config.json", lambda found: [found]),
    "a configuration nested deeply": edited("vae/config.json", lambda found: '{"a":' * 90_000),
    "a configuration of texts": edited("unet/config.json", lambda found: found | {"block_out_channels": "wide"}),
    "a UNet of a billion channels": edited(
        "unet/config.json", lambda found: found | {"block_out_channels": [2**30, 2**31]}
    ),
    "a UNet of a billion layers": edited("unet/config.json", lambda found: found | {"layers_per_block": 10**9}),
    "words of a billion layers": edited("text_encoder/config.json", lambda found: found | {"num_hidden_layers": 10**9}),
    "words of a billion channels": edited("text_encoder/config.json", lambda found: found | {"hidden_size": 2**30}),
    "a scheduler of a billion steps": edited(
        "scheduler/scheduler_config.json", lambda found: found | {"num_train_timesteps": 10**9}
    ),
    "weights that are cut": lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-9]),
    "weights that are a page": lambda folder: (folder / VAE).write_text("<html>not found</html>"),
    "weights that lack a tensor": weights(UNET, lacking("conv_out.bias")),
    "words that lack a tensor": weights(TEXT, lacking("final_layer_norm.bias")),
    "weights with a tensor more": weights(VAE, more(evil=torch.zeros(2))),
    "weights of another shape": weights(UNET, lambda state: state | {"conv_out.bias": torch.zeros(5)}),
    "weights with NaN": weights(VAE, lambda state: state | {"decoder.conv_out.bias": torch.full((3,), torch.nan)}),
    "weights as a hostile pickle": hostile_pickle,
    "weights as a link to nothing": link(UNET, "nothing"),
}


TOLD_BY_TENSORS = (  # to our own engine, which does not need what is wrong with these
    "an index of other parts", "a configuration of texts", "a UNet of a billion channels",
    "words of a billion layers", "words of a billion channels",
)  # fmt: skip


def peer(whole, place, act):
    shutil.copytree(whole / "peer", place / "peer")
    act(place / "peer")
    return place / "peer"


def test_the_folder_itself_is_sound(studio, whole, place):
    path = peer(whole, place, lambda folder: None)
    rows = catalog.catalog(studio[1])
    assert {rows[name].path for name in ("peer", "peer-ours")} == {path}
    assert studio[0].load(rows["peer"]) and studio[0].load(rows["peer-ours"])


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_folder_is_refused(studio, whole, place, name):
    path = peer(whole, place, FOLDERS[name])
    refused(studio, path, PART)
    for found in catalog.catalog(studio[1]).values():  # as `peer-ours`, where our own engine takes it for one
        if found.path == path and found.id != "peer" and name not in TOLD_BY_TENSORS:
            refused(studio, path, PART, found)


HOSTILE = {
    "a pipeline of the folder's own": index(lambda found: found | {"_class_name": ["pipeline", "Evil"]}),
    "a pipeline of another module": index(lambda found: found | {"_class_name": "evil.Evil"}),
    "a part of the folder's own": index(lambda found: found | {"unet": ["evil", "Evil"]}),
    "a part of a module above": index(lambda found: found | {"unet": ["..evil", "Evil"]}),
    "a part of the system": index(lambda found: found | {"unet": ["os", "system"]}),
    "a part that runs on import": index(lambda found: found | {"unet": ["antigravity", "webbrowser"]}),
    "a part of the built in": index(lambda found: found | {"unet": ["builtins", "eval"]}),
    "a part of torch": index(lambda found: found | {"unet": ["torch", "load"]}),
    "a part of ours": index(lambda found: found | {"unet": ["engines.worker", "Worker"]}),
    "a function of transformers": index(lambda found: found | {"text_encoder": ["transformers", "pipeline"]}),
    "a part of three words": index(lambda found: found | {"unet": ["diffusers", "UNet2DConditionModel", "evil"]}),
    "a part that is a number": index(lambda found: found | {"unet": [3, 4]}),
    "a part that is a folder above": index(
        lambda found: found | {"../../evil": ["diffusers", "UNet2DConditionModel"]}
    ),
    "words with code": edited("text_encoder/config.json", lambda found: {
        **found, "model_type": "evil", "auto_map": {"AutoModel": "modeling_evil.Evil"}, "hidden_size": 16,
    }),
    "a class of a configuration": edited("unet/config.json", lambda found: found | {
        "_class_name": "evil.Evil", "auto_map": {"AutoModel": "evil.Evil"}, "in_channels": 5,
    }),
    "a scheduler of the folder's own": index(lambda found: found | {"scheduler": ["evil", "Evil"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_runs_nothing(studio, whole, place, name, monkeypatch):
    path = peer(whole, place, with_code(HOSTILE[name]))
    monkeypatch.chdir(path)  # where its code would be found
    monkeypatch.syspath_prepend(".")
    refused(studio, path, PART)


def test_what_does_not_belong_to_a_model_hides_no_other(studio, whole, place):
    path = peer(whole, place, lambda folder: (folder / "more.safetensors").symlink_to("nothing"))
    assert {"painter", "peer", "peer-ours"} <= catalog.catalog(studio[1]).keys()
    assert catalog.read(path).bytes > 0


@pytest.mark.parametrize("family", ["embedding", "lora", "taesd-encoder"])
def test_what_only_other_programs_write_no_file_says_of_itself(whole, place, family):
    files.save(place / "bad.safetensors", load_file(whole / "upscaler.safetensors"), {"family": family})
    with pytest.raises(BadCheckpoint, match=UNKNOWN):
        catalog.read(place / "bad.safetensors")


def test_a_card_of_another_form_is_a_card_without_it(studio, whole, place):
    told = files.read_header(whole / "painter.safetensors")[1]
    card = {"title": ["x"], "licence": {"a": 1}, "loss": 0.5}
    files.save(place / "odd.safetensors", load_file(whole / "painter.safetensors"), told | {"card": card})
    found = catalog.catalog(studio[1])["odd"]
    assert found.licence == "unknown" and found.card == {"loss": 0.5}
