"""The table of models, and what becomes of files that are none."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from engines import catalog, classical
from engines.checkpoints import files, models
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest
from tests import tiny


@pytest.fixture
def home(tmp_path):
    models.save(tmp_path / "models" / "mine.safetensors", tiny.vqgan(), {"licence": "MIT"})
    tiny.save(tmp_path / "models" / "painter" / "model.safetensors", tiny.latent_diffusion())
    return tmp_path


def test_every_shipped_model_builds_and_is_finite():
    rows, engine = catalog.catalog(), Engine()
    assert {"vqgan", "latent-diffusion"} <= {row.family for row in rows.values()}
    assert {row.family for row in rows.values() if row.path is None} == {"classical-inpainting", "classical-upscaling"}
    for row in rows.values():
        model = engine.load(row)
        if row.path is None:
            assert row.licence and row.card["about"] and model.name == row.id
            continue
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())
        assert row.licence != "unknown" and row.card["command"].startswith("python app.py train")
        assert (row.path.parent / "card.md").exists()


def test_the_artists_models_are_rows_beside_the_shipped_ones(home):
    rows = catalog.catalog(home)
    shipped = [row.id for row in catalog.catalog().values() if row.path]
    assert list(rows) == [*shipped, "mine", "mirror", "painter", *classical.METHODS]
    mine, painter = rows["mine"], rows["painter"]
    assert (mine.family, mine.tasks, mine.licence) == ("vqgan", ("reconstruct",), "MIT")
    assert (painter.family, painter.tasks, painter.licence) == (
        "latent-diffusion", ("generate", "inpaint", "refine", "locate"), "unknown",
    )  # fmt: skip
    assert mine.bytes == mine.path.stat().st_size


def test_files_that_are_no_models_are_left_out_with_a_line_in_the_log(home, caplog):
    (home / "models" / "cut.safetensors").write_bytes(b"\x10\x00")
    assert "cut" not in catalog.catalog(home)
    assert "cut.safetensors" in caplog.text


def test_a_taken_name_is_left_out_with_a_line_in_the_log(home, caplog):
    models.save(home / "models" / "other" / "mine.safetensors", tiny.kl(), {})
    assert catalog.catalog(home)["mine"].family == "vqgan"
    assert "taken" in caplog.text


def test_find_by_name_by_path_and_by_task(home):
    assert catalog.find("mine", "reconstruct", home).id == "mine"
    assert catalog.find(str(home / "models" / "mine.safetensors"), "reconstruct").id == "mine"
    assert catalog.find(str(home / "models" / "painter"), "generate").id == "painter"
    assert "generate" in catalog.find("", "generate", home).tasks


def test_find_says_what_there_is(home):
    with pytest.raises(BadRequest, match="no model called “nobody”.*painter"):
        catalog.find("nobody", "generate", home)
    with pytest.raises(BadRequest, match="“mine” cannot generate.*painter"):
        catalog.find("mine", "generate", home)


def test_the_autoencoder_of_a_model_is_found_beside_it_or_by_its_name(home, tmp_path):
    painter = catalog.find("painter", home=home)
    beside = home / "models" / "painter" / "mirror.safetensors"
    assert catalog.drawn_with(painter).path == beside
    beside.rename(home / "models" / "mirror.safetensors")
    assert catalog.drawn_with(painter, home).path == home / "models" / "mirror.safetensors"
    (home / "models" / "mirror").mkdir()
    (home / "models" / "mirror.safetensors").rename(home / "models" / "mirror" / "model.safetensors")
    assert catalog.drawn_with(painter).path == home / "models" / "mirror" / "model.safetensors"
    (home / "models" / "mirror" / "model.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="“mirror”, which is not here; put that file.*as mirror.safetensors"):
        catalog.drawn_with(painter, home)


def test_a_namesake_of_another_content_is_passed_over(home):
    painter = catalog.find("painter", home=home)
    beside = home / "models" / "painter" / "mirror.safetensors"
    beside.rename(home / "models" / "mirror.safetensors")
    models.save(beside, tiny.vqgan(1), {})
    assert catalog.drawn_with(painter, home).path == home / "models" / "mirror.safetensors"
    (home / "models" / "mirror.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="is not the one that is here: its SHA-256 begins with"):
        catalog.drawn_with(painter, home)


def test_a_model_that_names_itself_as_its_autoencoder_is_refused(home):
    path = home / "models" / "painter" / "model.safetensors"
    header = files.read_header(path)[1]
    files.save(path, load_file(path), header | {"first_stage": header["first_stage"] | {"name": "painter"}})
    with pytest.raises(BadCheckpoint, match="“painter” draws with “painter”"):
        Engine(home).load(catalog.find("painter", home=home))


@pytest.mark.parametrize("first_stage", [
    *({"name": name, "sha256": "0" * 64} for name in ("../mirror", "/mirror", "", "m" * 999, None)),
    *({"name": "mirror", "sha256": sha256} for sha256 in ("0", 0, None)),
    {"name": "mirror"},
    "mirror",
    None,
])
def test_an_autoencoder_is_named_by_a_file_and_a_hash(home, first_stage):
    path = home / "models" / "painter" / "model.safetensors"
    files.save(path, load_file(path), files.read_header(path)[1] | {"first_stage": first_stage})
    with pytest.raises(BadCheckpoint, match="header that cannot be understood"):
        catalog.read(path)


def test_a_path_to_something_else_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(BadCheckpoint, match="no model of a known family"):
        catalog.find(str(path), "generate")
