"""What helps an artist to ask: counted tokens, weights and choices, presets, links, keys, and the same for scripts."""

import re

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import expect

from engines.requests import choose
from studio import images
from tests.browser.artist import is_one_sentence, pixels, request_in


def test_tokens_are_counted_while_words_are_written(artist):
    artist.write("a red fox")
    expect(artist.find("#generate-forecast")).to_contain_text(re.compile(r"\d+ of 24 tokens"))
    artist.write("many words " * 20)
    expect(artist.find("#generate-forecast .over")).to_be_visible()


def test_the_language_of_prompts_reaches_the_picture(artist):
    artist.ask("a {red|blue} [apple:heart:0.5], (flat:1.2)", seed=4)
    first = artist.draw()
    assert request_in(first)["prompt"] == choose("a {red|blue} [apple:heart:0.5], (flat:1.2)", 4)
    artist.ask("a __nothing__", seed=4)
    artist.find("#generate-run").click()
    assert is_one_sentence(artist.told("no list “nothing”"))


def test_presets_bring_settings_back(artist):
    artist.ask("a moon", seed=11, steps=7)
    artist.find("#generate-preset input").fill("night")
    artist.find("#generate-preset input").press("Enter")
    artist.find("#generate-preset-save").click()
    artist.page.wait_for_timeout(500)
    artist.ask("a sun", seed=12, steps=9)
    artist.find("#generate-preset-load").click()
    expect(artist.find("#generate-prompt textarea")).to_have_value("a moon")
    expect(artist.find("#generate-steps input[type=number]")).to_have_value("7")


def test_settings_outlive_the_page_and_a_link_carries_them(artist, visit):
    artist.ask("a green boat", seed=21, steps=6)
    artist.page.wait_for_timeout(500)
    artist.page.reload()
    expect(artist.find("#generate-prompt textarea")).to_have_value("a green boat")
    expect(artist.find("#generate-seed input[type=number]")).to_have_value("21")
    artist.find("#generate-link").click()
    address = artist.find("#generate-address input, #generate-address textarea").first
    expect(address).to_have_value(re.compile(r"prompt=a\+green\+boat"))
    other = visit()
    other.page.goto(address.input_value())
    expect(other.find("#generate-prompt textarea")).to_have_value("a green boat")
    expect(other.find("#generate-steps input[type=number]")).to_have_value("6")
    assert pixels(other.draw()).tobytes() == pixels(artist.draw()).tobytes()


def test_keys(artist):
    artist.find("#header h1").click()
    artist.page.keyboard.press("?")
    expect(artist.find("#shortcuts")).to_be_visible()
    expect(artist.find("#shortcuts li:visible")).to_have_count(5)
    artist.page.keyboard.press("Escape")
    expect(artist.find("#shortcuts")).to_be_hidden()
    artist.ask("a slow picture", seed=1, steps=150)
    artist.number("count", 4)
    artist.page.keyboard.press("Control+Enter")
    expect(artist.find("#generate-status .running")).to_be_visible()
    artist.page.keyboard.press("Escape")
    expect(artist.find("#generate-status .cancelled")).to_be_visible()


def test_models_and_system_tell_what_there_is(artist):
    artist.tab("Models")
    artist.page.get_by_label("icons-vqgan").check()
    expect(artist.find("#models-facts")).to_contain_text("vqgan")
    expect(artist.find("#models-card")).to_contain_text("PSNR")
    expect(artist.find("#models-card img").first).to_be_visible()
    artist.page.wait_for_function("[...document.querySelectorAll('#models-card img')].every(img => img.naturalWidth)")
    artist.find("#models-load").click()
    expect(artist.find("#models-held")).to_contain_text("icons-vqgan")
    artist.find("#models-unload").click()
    expect(artist.find("#models-held")).not_to_contain_text("icons-vqgan")
    # an old file becomes a model, and what is none gets a sentence
    artist.find("#models-convert").click()
    expect(artist.find("#models-converted")).to_contain_text("old.safetensors: 11 tensors.")
    expect(artist.find("#models-converted .failed")).to_have_text(re.compile("no.ckpt was not converted: .*"))
    artist.page.get_by_label("old", exact=True).check()
    expect(artist.find("#models-facts")).to_contain_text("srvgg")
    artist.tab("Upscale")
    artist.find("#upscale-model input").click()
    expect(artist.page.get_by_role("option", name="old", exact=True)).to_be_visible()
    artist.page.keyboard.press("Escape")
    artist.tab("System")
    expect(artist.find("#system-engines")).to_contain_text("threads")
    expect(artist.find("#system-facts")).to_contain_text("Python")
    assert artist.find("#header").bounding_box()["width"] > 0.8 * artist.page.viewport_size["width"]


# ---------------------------------------------------------------- scripts


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_a_script_draws_what_the_page_draws(client, artist):
    found = client.predict(prompt="a red heart", seed=31, steps=4, api_name="/generate")
    (made,) = found["pictures"]
    artist.ask("a red heart", seed=31)
    assert images.read_picture(made["file"]).tobytes() == pixels(artist.draw()).tobytes()
    assert made["seed"] == 31 and made["record"]["request"]["prompt"] == "a red heart"


def test_a_script_reconstructs(client, tmp_path):
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(tmp_path / "in.png")
    found = client.predict(image=handle_file(tmp_path / "in.png"), model="icons-vqgan", api_name="/reconstruct")
    assert images.read_picture(found["pictures"][0]["file"]).size == (64, 48)


def test_a_script_inpaints_and_nothing_outside_the_mask_changes(client, tmp_path):
    source = Image.effect_noise((90, 64), 60).convert("RGB")
    source.save(tmp_path / "in.png")
    mask = Image.new("L", (90, 64))
    mask.paste(255, (30, 20, 60, 40))
    mask.save(tmp_path / "mask.png")
    files = {"image": handle_file(tmp_path / "in.png"), "mask": handle_file(tmp_path / "mask.png")}
    found = client.predict(**files, steps=2, feather=0, count=2, api_name="/inpaint")
    for made in found["pictures"]:
        restored = images.read_picture(made["file"])
        restored.paste(source.crop((30, 20, 60, 40)), (30, 20))
        assert restored.tobytes() == source.tobytes()
    assert [made["seed"] for made in found["pictures"]] == [0, 1]


def test_a_script_cleans_colours_up(client, tmp_path):
    source = Image.effect_noise((64, 48), 10).convert("RGB")
    source.save(tmp_path / "in.png")
    found = client.predict(image=handle_file(tmp_path / "in.png"), levels=1.0, api_name="/adjust")
    (low, high), *_ = images.read_picture(found["pictures"][0]["file"]).getextrema()
    assert low < 5 and high > 250


def test_a_script_enlarges(client, tmp_path):
    Image.effect_noise((50, 40), 60).save(tmp_path / "in.png")
    asked = {"image": handle_file(tmp_path / "in.png"), "model": "lanczos", "scale": 2.5}
    found = client.predict(**asked, api_name="/upscale")
    assert images.read_picture(found["pictures"][0]["file"]).size == (125, 100)
    asked = {"image": asked["image"], "upscaler": "lanczos", "prompt": "a red heart", "steps": 4, "scale": 1.5}
    found = client.predict(**asked, api_name="/refine")
    assert images.read_picture(found["pictures"][0]["file"]).size == (75, 60)


def test_a_script_is_told_what_is_wrong(client):
    with pytest.raises(Exception, match="steps is 500; it must lie between 1 and 150"):
        client.predict(prompt="a", steps=500, api_name="/generate")
    with pytest.raises(Exception, match="There is no picture"):
        client.predict(image={"path": "/etc/hostname"}, api_name="/reconstruct")


def test_endpoints_are_named_typed_and_documented(client):
    told = client.view_api(return_format="dict")["named_endpoints"]
    assert set(told) == {"/generate", "/inpaint", "/adjust", "/upscale", "/refine", "/reconstruct", "/models"}
    parameters = {row["parameter_name"]: row for row in told["/generate"]["parameters"]}
    steps = parameters["steps"]
    assert set(steps["python_type"]["type"].split(" | ")) == {"int", "None"} and steps["parameter_default"] is None
    assert "which generator draws" in told["/generate"]["description"]
    rows = client.predict(api_name="/models")
    assert {"icons-quick", "icons-diffusion", "icons-vqgan"} <= {row["id"] for row in rows}
