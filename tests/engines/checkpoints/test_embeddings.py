"""Textual inversion: vectors in the place of words, as the peer reads them."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from engines import additions, catalog
from engines.checkpoints import embeddings, foreign, models, pickles
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest, Cancelled
from engines.requests import GenerateRequest
from tests.engines.checkpoints.test_stable_diffusion import Parts, at_home, near, tokenizer_files  # noqa: F401

WIDTH = 128  # of the words of the tiny version 1


def vectors(count, seed):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer_files):  # noqa: F811
    home = tmp_path_factory.mktemp("home")
    folder = at_home(Parts(1, 4, tokenizer_files), home, tokenizer_files)
    save_file({"emb_params": vectors(3, 0)}, folder / "ink.safetensors")
    save_file({"<cat>": vectors(1, 1)[0]}, folder / "cat.v2.safetensors")
    save_file({"emb_params": torch.ones(2, 64)}, folder / "narrow.safetensors")
    return home


@pytest.fixture(scope="module")
def ours(home):
    return models.load(home / "models" / "sd.safetensors")


def read(model, home, text):
    """What our text encoder says to the words of a prompt."""
    row = catalog.find("sd", home=home)
    asked, added = additions.named(GenerateRequest(model="sd", prompt=text), row, home)
    with torch.no_grad(), added.to(model):
        return model.words([asked.prompt])["context"]


@pytest.mark.parametrize("text, theirs", [
    ("embedding:ink", "ink"),
    ("a red embedding:ink, fox", "a red ink, fox"),
    ("embedding:cat.v2 or embedding:ink", "<cat> or ink"),
    ("fox,embedding:ink embedding:cat.v2.", "fox, ink <cat> ."),
    ("red fox", "red fox"),
])
def test_vectors_are_read_as_the_peer_reads_them(home, ours, tokenizer_files, text, theirs):  # noqa: F811
    parts = Parts(1, 4, tokenizer_files)
    pipe = StableDiffusionPipeline(
        vae=parts.vae, text_encoder=parts.text, tokenizer=parts.tokenizer, unet=parts.unet, scheduler=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.load_textual_inversion({"ink": vectors(3, 0)}, token="ink")
    pipe.load_textual_inversion({"<cat>": vectors(1, 1)[0]}, token="<cat>")
    expected, _ = pipe.encode_prompt(theirs, "cpu", 1, False)
    before = ours.text.text_model.embeddings.token_embedding.weight
    near(read(ours, home, text), expected.detach())
    assert ours.text.text_model.embeddings.token_embedding.weight is before and not ours.tokenizer.added


def test_nothing_is_left_of_them_where_a_task_was_cut(home, ours):
    before = ours.text.text_model.embeddings.token_embedding.weight
    with pytest.raises(Cancelled), embeddings.readable(ours, {"~": home / "models" / "ink.safetensors"}):
        assert ours.tokenizer.count("~") == 5
        raise Cancelled
    assert ours.text.text_model.embeddings.token_embedding.weight is before and not ours.tokenizer.added


def test_they_take_part_in_the_language_of_prompts(home, ours):
    plain, more = (read(ours, home, text) for text in ("a embedding:ink fox", "a (embedding:ink:1.5) fox"))
    assert not torch.equal(plain, more)
    tokenizer = catalog.tokenizer(catalog.find("sd", home=home))
    for text, count in (("red fox", 4), ("red embedding:ink fox", 7), ("[embedding:ink:fox:0.5] <lora:x:1>", 5)):
        words, counting = additions.reading(text, tokenizer, home)
        assert max(counting.count(pieces) for pieces in additions.prompt.readings(words.strip())) == count
    assert tokenizer.count("red fox") == 4 and not tokenizer.added


def drawn(engine, **fields):
    asked = {"model": "sd", "prompt": "red fox", "steps": 2, "width": 64, "height": 64, "cfg_scale": 3.0}
    return engine.run(GenerateRequest(**asked | fields)).pictures[0]


def test_they_change_the_picture_from_either_prompt_and_are_in_its_record(home):
    engine = Engine(home, "cpu")
    pictures = [
        drawn(engine), drawn(engine, prompt="red embedding:ink"), drawn(engine, negative="embedding:ink"),
        drawn(engine, prompt="red embedding:cat.v2", negative="embedding:ink"), drawn(engine),
    ]  # fmt: skip
    first, *others, last = (np.asarray(picture.image).tobytes() for picture in pictures)
    assert first == last and len({first, *others}) == 4
    both = pictures[3].record
    assert both["request"]["negative"] == "embedding:ink" and both["additions"].keys() == {"ink", "cat.v2"}
    assert len(both["additions"]["ink"]["sha256"]) == 64 and "additions" not in pictures[0].record


@pytest.mark.parametrize("fields, sentence", [
    ({"prompt": "embedding:inc"}, "no embedding called “inc”; choose one of: ink"),
    ({"negative": "(embedding:sd:1.2)"}, "no embedding called “sd”"),
    ({"prompt": "a embedding:narrow."}, "vectors of narrow.safetensors are 64 wide, and the words of “sd” 128"),
    ({"prompt": "embedding:ink " * 4}, "prompt has 14 tokens with its style; this model reads 12"),
])
def test_what_cannot_be_read_is_said_in_a_sentence(home, fields, sentence):
    with pytest.raises(BadRequest, match=sentence):
        drawn(Engine(home, "cpu"), **fields)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("shapes, config", [
    ({"emb_params": (3, 768)}, {"tensors": ("emb_params",), "vectors": 3, "widths": (768,)}),
    ({"*": (1, 1024)}, {"tensors": ("*",), "vectors": 1, "widths": (1024,)}),
    ({"<cat>": (768,)}, {"tensors": ("<cat>",), "vectors": 1, "widths": (768,)}),
    ({"clip_g": (2, 1280), "clip_l": (2, 768)},
     {"tensors": ("clip_l", "clip_g"), "vectors": 2, "widths": (768, 1280)}),
    ({"clip_g": (2, 1280), "clip_l": (3, 768)}, None),
    ({"emb_params": (3, 768), "more": (3, 768)}, None),
    ({"weight": (3000, 768)}, None),
    ({"weight": (3, 3, 3, 3)}, None),
    ({"bias": (768,)}, None),
    ({"conv.weight": (3, 3)}, None),
    ({}, None),
])
def test_they_are_known_by_their_content(shapes, config):
    layout = foreign.detect({name: ("F32", shape) for name, shape in shapes.items()})
    assert (layout.family, layout.config) == (("embedding", config) if config else (None, None))


def test_old_files_are_converted(tmp_path):
    values = vectors(2, 3)
    torch.save({
        "string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.nn.Parameter(values)},
        "name": "ink", "step": 500, "sd_checkpoint": None,
    }, tmp_path / "ink.pt")  # fmt: skip
    torch.save({"<ink>": values}, tmp_path / "learned.bin")
    for name in ("ink.pt", "learned.bin"):
        target = (tmp_path / name).with_suffix(".safetensors")
        pickles.convert(tmp_path / name, target)
        row = catalog.read(target)
        assert (row.family, row.tasks) == ("embedding", ())
        assert torch.equal(embeddings._vectors(target)[0], values)
    with pytest.raises(BadCheckpoint, match="no model by itself.*write embedding:ink into a prompt"):
        models.load(tmp_path / "ink.safetensors")
