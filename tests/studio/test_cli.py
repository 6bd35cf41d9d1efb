"""The command line as people and scripts use it: `--json`, exit codes, standard streams."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engines import catalog, requests
from engines.checkpoints import models
from engines.engine import Engine
from engines.vqgan.autoencoder import KLAutoencoder
from studio import cli, images
from studio.logins import Logins
from tests import tiny

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    tiny.save(home / "models" / "painter.safetensors", tiny.latent_diffusion(), {"licence": "MIT"})
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training folder: captioned icons with transparency and a few photographs."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as table:
        for example in tiny.examples():
            Image.fromarray(example.pixels).save(folder / example.name)
            row = {"file_name": example.name, "text": example.text, "text_zh": example.text_zh, "style": example.style}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def run(capsys, home, *words):
    """Exit code, the JSON on standard output if there is any, and standard error."""
    code = cli.main([*words, "--json", "--device", "cpu", "--home", str(home)])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_models(capsys, home):
    code, found, _ = run(capsys, home, "models")
    assert code == 0
    rows = {row["id"]: row for row in found["models"]}
    painter = rows["painter"]
    assert (painter["family"], painter["licence"]) == ("latent-diffusion", "MIT")
    assert painter["tasks"] == ["generate", "inpaint", "refine", "locate"]
    assert painter["bytes"] == Path(painter["path"]).stat().st_size
    assert set(painter) == {"id", "family", "tasks", "path", "bytes", "licence"}


def test_adjust_cleans_colours_up(capsys, home, tmp_path):
    faded = Image.fromarray((80 + np.asarray(Image.linear_gradient("L").convert("RGB")) * 0.3).astype(np.uint8))
    faded.save(tmp_path / "faded.png")
    words = ["adjust", str(tmp_path / "faded.png"), "--levels", "1", "--out", str(tmp_path / "clean.png")]
    code, found, _ = run(capsys, home, *words)
    assert code == 0 and found["pictures"][0]["path"] == str(tmp_path / "clean.png")
    clean = np.asarray(Image.open(tmp_path / "clean.png"))
    assert clean.min() < 5 and clean.max() > 250
    assert images.read_record(tmp_path / "clean.png")["request"]["levels"] == 1.0


def test_upscale_makes_more_pixels(capsys, home, tmp_path):
    Image.effect_noise((30, 20), 60).convert("RGB").save(tmp_path / "in.png")
    words = ["upscale", str(tmp_path / "in.png"), "--scale", "4", "--model", "lanczos"]
    code, found, _ = run(capsys, home, *words, "--out", str(tmp_path / "out.png"))
    assert code == 0 and found["model"] == "lanczos"
    assert Image.open(tmp_path / "out.png").size == (120, 80)
    code, _, err = run(capsys, home, *words[:2], "--scale", "1000", "--out", str(tmp_path / "out.png"))
    assert code == 2 and "must lie between 1.0 and 16.0" in err


def test_upscale_takes_many_pictures_and_folders(capsys, home, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.new("RGB", (10 + number, 8), "red").save(tmp_path / "in" / f"{number}.webp")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((9, 9, 3), np.uint16))
    words = ["upscale", str(tmp_path / "in"), str(tmp_path / "deep.png"), "--model", "lanczos"]
    code, found, err = run(capsys, home, *words, "--out", str(tmp_path / "out"))
    assert code == 0 and "deep.png: Its 16 bits a channel were rounded to 8." in err
    sizes = {Path(made["path"]).name: Image.open(made["path"]).size for made in found["pictures"]}
    assert sizes == {"0.png": (20, 16), "1.png": (22, 16), "deep.png": (18, 18)}
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    code, _, err = run(capsys, home, *words[:2], str(tmp_path / "0.png"), "--out", str(tmp_path / "out"))
    assert code == 2 and "Several pictures would be written" in err
    assert run(capsys, home, *words, "--out", "-")[0] == 2


def test_refine_makes_a_picture_bigger_and_draws_it_over(capsys, home, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "in.png")
    words = ["refine", str(tmp_path / "in.png"), "--prompt", "red disc", "--scale", "1.5", "--upscaler", "lanczos"]
    code, found, _ = run(capsys, home, *words, "--model", "painter", "--steps", "3", "--out", str(tmp_path / "made"))
    (made,) = found["pictures"]
    assert code == 0 and found["model"] == "painter"
    assert images.read_picture(made["path"]).size == (60, 45)
    asked = images.read_record(made["path"])["request"]
    assert (asked["upscaler"], asked["steps"]) == ("lanczos", 3)
    assert asked["cfg_scale"] == requests.SUITED["latent-diffusion"]["cfg_scale"]


@pytest.mark.parametrize("model", ["painter", "telea"])
def test_inpaint_changes_what_is_painted_and_nothing_else(capsys, home, tmp_path, model):
    source, mask = tmp_path / "photo.webp", tmp_path / "mask.jpg"
    Image.effect_noise((90, 60), 80).convert("RGB").save(source, lossless=True)
    painted = np.zeros((60, 90), np.uint8)
    painted[20:40, 30:60] = 255
    Image.fromarray(painted).save(mask, quality=100)
    words = ["inpaint", str(source), str(mask), "--model", model, "--steps", "2", "--feather", "0", "--bottom", "32"]
    code, found, err = run(capsys, home, *words, "--out", str(tmp_path / "new.png"))
    assert code == 0 and found["changed"] == 0 and "0 pixels changed" in err and found["model"] == model
    before, after = np.asarray(Image.open(source)), np.asarray(Image.open(tmp_path / "new.png"))
    kept = np.asarray(Image.open(mask)) == 0
    assert after.shape == (92, 90, 3) and np.array_equal(after[:60][kept], before[kept])
    assert (after[:60][painted > 0] != before[painted > 0]).any()
    assert images.read_record(tmp_path / "new.png")["request"]["bottom"] == 32
    assert run(capsys, home, "inpaint", str(source), "--out", str(tmp_path / "no.png"))[0] == 2


def test_generate(capsys, home, tmp_path):
    words = ["generate", "red disc", "--model", "painter", "--size", "96x64", "--steps", "2", "--seed", "3"]
    code, found, err = run(capsys, home, *words, "--count", "2", "--out", str(tmp_path))
    assert code == 0 and "step 2 of 2" in err
    assert [row["seed"] for row in found["pictures"]] == [3, 4]
    for row in found["pictures"]:
        assert row["seconds"] > 0
        assert Image.open(row["path"]).size == (96, 64)
        assert images.read_record(row["path"])["request"] | {"seed": row["seed"], "steps": 2} == (
            images.read_record(row["path"])["request"]
        )


def test_generate_without_words_draws_from_noise(capsys, home, tmp_path):
    words = ["generate", "--model", "painter", "--size", "64x64", "--steps", "2", "--out", str(tmp_path)]
    code, found, _ = run(capsys, home, *words)
    assert code == 0
    assert images.read_record(found["pictures"][0]["path"])["request"]["cfg_scale"] == 1.0
    code, _, err = run(capsys, home, *words, "--cfg", "4")
    assert code == 2 and "set guidance to 1" in err


def test_generate_from_a_picture(capsys, home, tmp_path):
    Image.new("RGB", (50, 60), "red").save(tmp_path / "in.png")
    code, found, _ = run(
        capsys, home, "generate", "blue", "--model", "painter", "--size", "64x64", "--steps", "4", "--strength", "0.5",
        "--image", str(tmp_path / "in.png"), "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0 and images.read_record(found["pictures"][0]["path"])["request"]["image"]


def test_reconstruct(capsys, home, tmp_path):
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "in.png")
    code, found, _ = run(
        capsys, home, "reconstruct", str(tmp_path / "in.png"), "--model", "mirror", "--out", str(tmp_path / "out.png")
    )
    assert code == 0
    assert Image.open(found["pictures"][0]["path"]).size == (40, 40)
    assert found["bits_per_pixel"] == pytest.approx(100 * 6 / 1600) and found["psnr"] > 0 and found["ssim"] <= 1


def test_a_picture_is_kept_as_tokens_and_drawn_again(capsys, home, tmp_path):
    Image.new("RGB", (50, 60), "red").save(tmp_path / "in.png")
    common = ["reconstruct", "--model", "mirror", "--out"]
    words = [*common, str(tmp_path / "first.png"), "--save-tokens", str(tmp_path / "in.npz"), str(tmp_path / "in.png")]
    assert run(capsys, home, *words)[0] == 0
    code, found, _ = run(capsys, home, *common, str(tmp_path / "again.png"), str(tmp_path / "in.npz"))
    assert code == 0 and found["psnr"] is None and found["bits_per_pixel"] > 0
    first, again = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("first", "again"))
    assert np.abs(first - again).max() <= 1
    code, _, err = run(capsys, home, *common, str(tmp_path / "no.png"), str(tmp_path / "missing.npz"))
    assert code == 2 and "cannot be opened" in err


def test_compare(capsys, home, tmp_path):
    out = ["--out", str(tmp_path)]
    code, found, _ = run(capsys, home, "compare", "--models", "painter,icons-diffusion", "--prompt", "disc", "--seed",
                         "4", "--steps", "2", *out)  # fmt: skip
    assert code == 0
    assert [(row["model"], row["seed"]) for row in found["pictures"]] == [("painter", 4), ("icons-diffusion", 4)]
    assert all(images.read_record(row["path"])["request"]["prompt"] == "disc" for row in found["pictures"])
    assert Image.open(found["sheet"]).width > 2 * 128
    code, _, err = run(capsys, home, "compare", "--models", "painter", "--prompt", "disc", *out)
    assert code == 2 and "comparison of 1 pictures" in err


def test_compare_on_a_picture(capsys, home, tmp_path):
    Image.new("RGB", (50, 60), "red").save(tmp_path / "in.png")
    code, found, _ = run(
        capsys, home, "compare", "--models", "mirror,icons-vqgan", "--image", str(tmp_path / "in.png"),
        "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0 and [Image.open(row["path"]).size for row in found["pictures"]] == [(50, 60)] * 2
    one, other = (np.asarray(Image.open(row["path"])).astype(int) for row in found["pictures"])
    assert "apart" not in found["pictures"][0]
    apart = found["pictures"][1]["apart"]
    assert (apart["largest"], apart["mean"]) == (abs(one - other).max(), pytest.approx(abs(one - other).mean()))
    assert json.loads((tmp_path / "comparison.json").read_text())["cells"][1]["apart"].items() > apart.items()


def test_compare_says_that_pictures_are_identical(capsys, home, tmp_path):
    words = ["compare", "--models", f"painter,{home / 'models' / 'painter.safetensors'}", "--prompt", "disc"]
    code, found, err = run(capsys, home, *words, "--steps", "2", "--out", str(tmp_path))
    assert code == 0 and "identical to the first model's" in err
    assert found["pictures"][1]["apart"]["identical"] and found["pictures"][1]["apart"]["psnr"] is None


def test_compare_on_a_picture_and_a_mask(capsys, home, tmp_path):
    Image.effect_noise((50, 60), 60).convert("RGB").save(tmp_path / "in.png")
    Image.new("L", (50, 60), 255).save(tmp_path / "mask.png")
    words = ["compare", "--models", "painter,telea", "--mask", str(tmp_path / "mask.png"), "--steps", "2"]
    code, found, _ = run(capsys, home, *words, "--image", str(tmp_path / "in.png"), "--out", str(tmp_path))
    assert code == 0 and [row["model"] for row in found["pictures"]] == ["painter", "telea"]
    assert [Image.open(row["path"]).size for row in found["pictures"]] == [(50, 60)] * 2
    code, _, err = run(capsys, home, *words, "--out", str(tmp_path))
    assert code == 2 and "needs its picture" in err
    words += ["--image", str(tmp_path / "in.png"), "--scale", "2"]
    assert run(capsys, home, *words, "--out", str(tmp_path))[0] == 2


def test_compare_upscalers(capsys, home, tmp_path):
    tiny.save(home / "models" / "larger.safetensors", tiny.upscaler())
    Image.effect_noise((50, 60), 60).convert("RGB").save(tmp_path / "in.png")
    words = ["compare", "--models", "larger,lanczos", "--scale", "2", "--image", str(tmp_path / "in.png")]
    code, found, _ = run(capsys, home, *words, "--out", str(tmp_path))
    assert code == 0 and [row["model"] for row in found["pictures"]] == ["larger", "lanczos"]
    assert [Image.open(row["path"]).size for row in found["pictures"]] == [(100, 120)] * 2


def test_relink_brings_what_draws_to_a_vqgan_that_was_trained_on(capsys, tmp_path):
    home, new = tmp_path / "home", tmp_path / "new"
    tiny.save(home / "models" / "quick.safetensors", tiny.few_steps())
    models.save(new / "mirror" / "model.safetensors", tiny.two_headed(), {})
    rows = [catalog.find("quick", home=home)]
    for name, other in (("walker", new / "mirror"), ("quick", new / "walker")):
        assert catalog.find(name, home=home).size == 32
        code, found, _ = run(capsys, home, "relink", name, "--to", str(other), "--out", str(new / name))
        assert code == 0 and found["draws_with"] == other.name
        rows.append(catalog.find(str(new / name), home=home))
        assert rows[-1].size == 64
    before, after = (Engine(home, "cpu").load(row).unet.state_dict() for row in (rows[0], rows[-1]))
    assert all(map(torch.equal, before.values(), after.values()))


@pytest.mark.parametrize("model, to, sentence", [
    ("painter", "OTHER", "not the same in what counts"),
    ("painter", "mirror", "is there already"),
    ("mirror", "mirror", "nothing to link anew"),
])  # fmt: skip
def test_relink_refuses_what_is_no_like(capsys, home, tmp_path, model, to, sentence):
    other, out = tmp_path / "other" / "model.safetensors", tmp_path / "out"
    models.save(other, tiny.vqgan(seed=5), {})
    if "already" in sentence:
        models.save(out / "model.safetensors", tiny.kl(), {})
    words = ["relink", model, "--to", to.replace("OTHER", str(other)), "--out", str(out)]
    code, _, err = run(capsys, home, *words)
    assert code == 2 and sentence in err and out.exists() == ("already" in sentence)


def test_export_writes_a_folder_of_diffusers_with_the_card(capsys, home, tmp_path):
    shape = dataclasses.replace(tiny.AUTOENCODER, patch=1)
    models.save(tmp_path / "auto" / "model.safetensors", KLAutoencoder(shape), {"licence": "MIT"})
    where = str(tmp_path / "auto" / "model.safetensors")
    code, found, _ = run(capsys, home, "export", where, "--out", str(tmp_path / "bare"))
    assert (code, found["model"], found["family"]) == (0, "auto", "kl")
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "bare").iterdir())
    assert "| licence | MIT |" in (tmp_path / "bare" / "README.md").read_text()
    (tmp_path / "auto" / "card.md").write_text("# auto\n\n![Icons](icons.png)\n")
    for name in ("icons.png", "other.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "auto" / name)
    assert run(capsys, home, "export", where, "--out", str(tmp_path / "out"))[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "icons.png", "config.json", "diffusion_pytorch_model.safetensors"
    }  # fmt: skip
    code, _, err = run(capsys, home, "export", "painter", "--out", str(tmp_path / "none"))
    assert code == 2 and "has no like in diffusers: its autoencoder folds 2x2 pixels into one" in err


def test_what_is_exported_or_trained_on_is_loaded_exactly(home, folder, tmp_path, tiny_presets, monkeypatch):
    from engines import engine

    engines, where = [], ["--home", str(home), "--device", "auto", "--out"]
    real = engine.choose_device
    monkeypatch.setattr(engine, "choose_device", lambda name: engines.append(name) or real(name))
    assert cli.main(["export", "mirror", *where, str(tmp_path / "none")]) == 2
    common = ["--data", str(folder), "--preset", "tiny", "--steps", "1", "--from", "mirror"]
    assert cli.main(["train", "diffusion", *common, *where, str(tmp_path / "run")]) == 2
    assert engines == ["cpu", "cpu"]  # on a GPU it would be in half precision


def test_convert_makes_a_model_of_an_old_file(capsys, home, tmp_path):
    torch.save({"state_dict": tiny.upscaler().state_dict(), "epoch": 1}, tmp_path / "old.ckpt")
    code, found, err = run(capsys, home, "convert", str(tmp_path / "old.ckpt"))
    assert code == 0 and found["path"] == str(tmp_path / "old.safetensors") and found["within"] == "state_dict"
    assert found["family"] is None and "no model of a known family" in err  # ours say what they are
    code, _, err = run(capsys, home, "convert", str(tmp_path / "none.ckpt"))
    assert code == 2 and "cannot be opened" in err


def test_login(capsys, home, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    code, found, _ = run(capsys, home, "login", "ann")
    assert code == 0 and found == {"login": "ann"} and Logins(home).check("ann", "correct horse")
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert run(capsys, home, "login", "ann")[0] == 2


def test_reconstruct_through_standard_streams(home):
    stream = io.BytesIO()
    Image.new("RGB", (32, 48), "olive").save(stream, "PNG")
    words = ["reconstruct", "-", "--model", "mirror", "--out", "-", "--home", str(home), "--device", "cpu"]
    code = "import sys; from studio import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, input=stream.getvalue(), capture_output=True)
    assert done.returncode == 0
    assert Image.open(io.BytesIO(done.stdout)).size == (32, 48)


@pytest.mark.parametrize("words, sentence", [
    (["generate", "x", "--model", "nobody", "--out", "OUT"], "no model called “nobody”"),
    (["generate", "x", "--model", "painter", "--sampler", "quick", "--out", "OUT"], "no sampler called “quick”"),
    (["generate", "x", "--model", "painter", "--size", "large", "--out", "OUT"], "write it as WxH"),
    (["generate", "x", "--model", "painter", "--size", "65x64", "--out", "OUT"], "multiple of 32"),
    (["generate", "x", "--model", "painter", "--steps", "0", "--out", "OUT"], "between 1 and 150"),
    (["generate", "--cfg", "3", "--model", "painter", "--out", "OUT"], "write a prompt"),
    (["generate", "x", "--device", "tpu", "--out", "OUT"], "no device “tpu”"),
    (["reconstruct", "nothing.png", "--out", "OUT"], "no picture that can be read"),
    (["train", "vqgan", "--data", "nowhere", "--out", "OUT", "--steps", "1"], "no folder"),
    (["train", "vqgan", "--data", ".", "--out", "OUT", "--steps", "1", "--preset", "huge"], "no preset called “huge”"),
    (["train", "vqgan", "--data", ".", "--out", "OUT"], "--steps or --minutes"),
])
def test_a_wrong_argument_is_one_sentence_and_exit_2(capsys, home, tmp_path, words, sentence):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    code = cli.main([*words, "--home", str(home)])
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert sentence in err and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("words", [["paint"], ["generate", "x"], ["generate", "x", "--steps", "many", "--out", "o"]])
def test_what_cannot_be_parsed_is_one_sentence_and_exit_2(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith("atelier: ") and err.count("\n") == 1


@pytest.fixture
def tiny_presets(monkeypatch):
    from engines.training import presets
    from engines.training.vqgan import VQGANRecipe

    vqgan = VQGANRecipe(
        tiny.AUTOENCODER, presets.CodebookConfig(64, l2_normalised=True, ema_decay=0.9), size=32, crop=16, batch=4,
        adversarial_start=1, discriminator_ch=8,
    )  # fmt: skip
    monkeypatch.setitem(presets.VQGAN, "tiny", vqgan)
    monkeypatch.setitem(presets.VQGAN, "tiny-redrawn", dataclasses.replace(vqgan, learns="decoder", redrawn=1.0))
    monkeypatch.setitem(presets.TEXT, "tiny", tiny.CLIP_RECIPE)
    monkeypatch.setitem(presets.TOKENS, "tiny", tiny.TOKEN_RECIPE)
    monkeypatch.setitem(presets.DIFFUSION, "tiny", tiny.RECIPE)
    monkeypatch.setitem(presets.FEW_STEPS, "tiny", tiny.FEW_STEP_RECIPE)


@pytest.mark.parametrize(("words", "sentence"), [
    (["vqgan", "--text", "x"], "has no use for --text"), (["text", "--from", "x"], "has no use for --from"),
    (["text", "--lpips", "x"], "has no use for --lpips"), (["vqgan", "--first-stage", "x"], "no use for --first-stage"),
    (["diffusion", "--from", "x", "--first-stage", "y"], "brings its own first stage"),
    (["diffusion", "--precision", "half"], "no precision called “half”"),
], ids=str)
def test_an_option_that_would_have_no_effect_is_refused(capsys, home, folder, tmp_path, words, sentence):
    code, _, err = run(capsys, home, "train", *words, "--data", str(folder), "--out", str(tmp_path), "--steps", "1")
    assert code == 2 and sentence in err


def test_train_resume_and_use_what_was_trained(capsys, home, folder, tmp_path, tiny_presets):
    first, words, second = tmp_path / "first", tmp_path / "words", tmp_path / "second"
    common = ["--data", str(folder), "--preset", "tiny"]

    code, found, _ = run(capsys, home, "train", "vqgan", *common, "--out", str(first), "--steps", "2")
    assert code == 0 and found["steps"] == 2
    code, _, err = run(capsys, home, "train", "vqgan", *common, "--out", str(first), "--steps", "3")
    assert code == 2 and "--resume" in err
    code, found, _ = run(capsys, home, "train", "vqgan", *common, "--out", str(first), "--steps", "3", "--resume")
    assert code == 0 and found["steps"] == 3

    stage = ["--first-stage", found["model"]]
    code, found, _ = run(capsys, home, "train", "text", *common, *stage, "--out", str(words), "--steps", "2")
    assert code == 0 and found["steps"] == 2
    code, _, err = run(capsys, home, "generate", "red disc", "--model", found["model"], "--out", str(tmp_path))
    assert code == 2 and "cannot generate" in err
    code, _, err = run(
        capsys, home, "train", "diffusion", *common, *stage, "--text", stage[1], "--out", str(second), "--steps", "2"
    )
    assert code == 2 and "must be a clip or" in err

    text = ["--text", found["model"]]
    tokens = ["train", "tokens", *common, *stage, *text, "--out", str(tmp_path / "tokens"), "--steps", "2"]
    code, found, _ = run(capsys, home, *tokens)
    assert code == 0 and found["steps"] == 2
    code, drawn, _ = run(
        capsys, home, "generate", "red disc", "--model", found["model"], "--size", "64x64", "--order", "halton",
        "--steps", "3", "--out", str(tmp_path / "drawn-by-tokens"),
    )  # fmt: skip
    assert code == 0 and len(drawn["pictures"]) == 1

    words = ["train", "diffusion", *common, *stage, *text, "--out", str(second), "--steps", "2"]
    code, found, err = run(capsys, home, *words)
    assert code == 0 and found["steps"] == 2 and "pictures/s" in err and "min left" in err
    assert {"losses.png", "log.jsonl", "model.safetensors", "checkpoint.safetensors"} <= {
        path.name for path in second.iterdir()
    }
    card = models.files.read_header(found["model"])[1]["card"]
    assert card["command"].startswith("python app.py train diffusion --data") and card["pictures seen"] == 8

    words = ["generate", "red disc", "--model", found["model"], "--size", "64x64", "--steps", "2"]
    code, found, _ = run(capsys, home, *words, "--out", str(tmp_path / "drawn"))
    assert code == 0 and len(found["pictures"]) == 1

    third = ["train", "diffusion", *common, "--from", str(second), "--out", str(tmp_path / "third"), "--steps", "1"]
    code, found, _ = run(capsys, home, *third)
    assert code == 0 and found["steps"] == 1

    code, _, err = run(capsys, home, "train", "few-steps", *common, "--out", str(tmp_path / "none"), "--steps", "1")
    assert code == 2 and "Name a latent diffusion model with --from" in err
    quicker = ["train", "few-steps", *common, "--from", str(second), "--precision", "float32"]
    code, found, _ = run(capsys, home, *quicker, "--out", str(tmp_path / "quicker"), "--steps", "2")
    assert code == 0 and found["steps"] == 2
    code, _, err = run(capsys, home, *quicker, *text, "--out", str(tmp_path / "none"), "--steps", "2")
    assert code == 2 and "has no use for --text" in err
    code, _, err = run(capsys, home, *quicker, "--teacher", "painter", "--out", str(tmp_path / "none"), "--steps", "2")
    assert code == 2 and "leave --teacher out" in err
    written = models.files.read_header(found["model"])[1]["card"]["command"]
    assert "--precision float32" in written and written.endswith(f"--from {second}")
    again = ["train", "few-steps", *common, "--from", found["model"], "--teacher", str(second), "--steps", "2"]
    code, found, _ = run(capsys, home, *again, "--out", str(tmp_path / "again"))
    assert code == 0
    assert f"--teacher {second}" in models.files.read_header(found["model"])[1]["card"]["command"]
    decoder = ["train", "vqgan", *common, "--from", stage[1], "--out", str(tmp_path / "decoder"), "--steps", "1"]
    code, _, err = run(capsys, home, *decoder, "--drawer", str(second))
    assert code == 2 and "must be a few-step-diffusion model" in err
    decoder[decoder.index("tiny")] = "tiny-redrawn"
    code, _, err = run(capsys, home, *decoder)
    assert code == 2 and "with --drawer" in err
    code, redrawn, _ = run(capsys, home, *decoder, "--drawer", found["model"])
    assert code == 0 and redrawn["steps"] == 1
    assert f"--drawer {found['model']}" in models.files.read_header(redrawn["model"])[1]["card"]["command"]
    words = ["generate", "red disc", "--model", found["model"], "--size", "64x64", "--out", str(tmp_path / "quick")]
    code, found, _ = run(capsys, home, *words)
    assert code == 0
    record = images.read_record(found["pictures"][0]["path"])["request"]
    assert (record["steps"], record["cfg_scale"]) == tuple(requests.SUITED["few-step-diffusion"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl+C", "SIGTERM"])
def test_a_stopped_training_is_saved_and_goes_on(capsys, home, folder, tmp_path, tiny_presets, monkeypatch, number):
    show = cli._training_progress
    monkeypatch.setattr(
        cli, "_training_progress", lambda row: show(row) or (row["step"] == 2 and signal.raise_signal(number))
    )
    before = signal.getsignal(number)
    words = ["train", "vqgan", "--data", str(folder), "--preset", "tiny", "--out", str(tmp_path / "run")]
    code, found, err = run(capsys, home, *words, "--steps", "4")
    assert code == 0 and found["steps"] == 2 and found["model"] is None
    assert "saved after 2 steps" in err and "--resume" in err
    assert signal.getsignal(number) is before
    code, found, _ = run(capsys, home, *words, "--resume")
    assert code == 0 and found["steps"] == 4 and Path(found["model"]).exists()


def test_evaluate_writes_a_card(capsys, home, folder, tmp_path):
    (tmp_path / "about.md").write_text("Known limits: **small**.")
    code, found, _ = run(capsys, home, "evaluate", "mirror", "--data", str(folder), "--out", str(tmp_path))
    # The pictures of this folder are smaller than what the evaluation shows.
    assert code == 0 and found["icons"]["pictures"] == sum(e.held_out for e in tiny.examples() if e.text)
    card = (tmp_path / "card.md").read_text()
    assert "Known limits: **small**." in card and f"{found['icons']['ours']['psnr']:.2f} dB" in card
    assert (tmp_path / "icons.webp").exists()
