"""The Generate tab, by what a person does there."""


import pytest
from PIL import Image, ImageChops
from playwright.sync_api import expect

from engines.requests import SUITED
from tests.browser.artist import is_one_sentence, pixels, request_in


def test_words_become_a_picture_that_can_be_downloaded_and_drawn_again(artist, visit, tmp_path):
    artist.ask("a red fox, flat", seed=11, steps=6)
    before = artist.shown()
    artist.find("#generate-run").click()
    artist.drawn(before)
    expect(artist.find("#generate-gallery .caption-label")).to_have_text("seed 11")
    with artist.page.expect_download() as download:
        artist.find("#generate-download").click()
    path = tmp_path / "fox.png"
    download.value.save_as(path)
    made = request_in(path)
    assert (made["prompt"], made["seed"], made["steps"]) == ("a red fox, flat", 11, 6)
    picture = Image.open(path)
    assert picture.size == (made["width"], made["height"])
    assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 100  # and no plain colour

    another = visit()
    another.read_settings(path)
    expect(another.find("#generate-prompt textarea")).to_have_value("a red fox, flat")
    expect(another.find("#generate-seed input")).to_have_value("11")
    again = pixels(another.draw())
    assert ImageChops.difference(again, picture.convert("RGB")).getbbox() is None


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(artist):
    artist.ask("pizza, 3d", seed=5)
    first, again = pixels(artist.draw()), pixels(artist.draw())
    artist.number("seed", 6)
    other = pixels(artist.draw())
    assert ImageChops.difference(first, again).getbbox() is None
    assert ImageChops.difference(first, other).getbbox() is not None


def test_seeds_count_up_and_a_chosen_picture_gives_its_seed(artist):
    artist.ask("red heart, glossy", seed=40)
    artist.number("count", 2)
    artist.draw()
    expect(artist.find("#generate-gallery .caption-label")).to_have_text(["seed 40", "seed 41"])
    artist.find("#generate-gallery .thumbnail-lg").nth(1).click()
    expect(artist.find("#generate-details")).to_contain_text("seed 41")
    artist.number("seed", 7)
    artist.find("#generate-use-seed").click()
    expect(artist.find("#generate-seed input")).to_have_value("41")


def long_job(artist, seed):
    """Sixteen pictures, long enough to be met at work on any machine, with the first of them finished."""
    artist.ask("a house", seed=seed, steps=150)
    artist.number("count", 16)
    artist.find("#generate-run").click()
    expect(artist.find("#generate-preview img")).to_be_visible()
    expect(artist.find("#generate-status .bar")).to_be_visible()
    expect(artist.find("#generate-gallery .caption-label").first).to_have_text(f"seed {seed}")


def test_stop_keeps_what_is_finished_and_the_next_picture_is_drawn(artist):
    long_job(artist, seed=501)
    artist.find("#generate-stop").click()
    expect(artist.find("#generate-status .cancelled")).to_have_text("Stopped.")
    expect(artist.find("#generate-stop")).to_be_disabled()
    kept = artist.find("#generate-gallery .caption-label").all_inner_texts()
    assert kept == [f"seed {501 + i}" for i in range(len(kept))] and 1 <= len(kept) < 16
    artist.number("steps", 4)
    artist.number("count", 1)
    assert request_in(artist.draw())["steps"] == 4


def test_one_is_skipped_and_with_another_the_job_ends(artist):
    long_job(artist, seed=601)
    artist.find("#generate-skip").click()
    expect(artist.find("#generate-gallery .caption-label").nth(1)).to_be_visible()
    artist.find("#generate-finish").click()
    expect(artist.find("#generate-status .done")).to_be_attached()
    expect(artist.find("#generate-finish")).to_be_hidden()
    kept = artist.find("#generate-gallery .caption-label").all_inner_texts()
    seeds = [int(text.removeprefix("seed ")) for text in kept]
    assert seeds[0] == 601 and len(seeds) < 16
    assert len(set(range(601, seeds[-1])) - set(seeds)) == 1  # the one that was skipped


def test_the_queue_is_seen_and_moved(artist):
    long_job(artist, seed=701)
    artist.open("Queue")
    jobs = artist.find("#queue-jobs label")
    expect(jobs.first).to_contain_text("a house · running")
    jobs.first.click()
    artist.find("#queue-again").click()
    assert is_one_sentence(artist.told("not over yet"))
    artist.find("#queue-remove").click()
    expect(artist.find("#generate-status .cancelled")).to_be_attached()
    expect(jobs.first).to_contain_text("a house · stopped")
    artist.find("#queue-again").click()
    expect(jobs.first).to_contain_text("a house · running")
    expect(artist.find("#generate-status .running")).to_be_visible()
    artist.find("#generate-stop").click()
    expect(artist.find("#generate-status .cancelled")).to_be_attached()


def test_guidance_without_words_gets_a_sentence_and_the_form_keeps_its_values(artist):
    artist.ask("", seed=123)
    artist.find("#generate-run").click()
    assert is_one_sentence(artist.told("write a prompt"))
    expect(artist.find("#generate-seed input")).to_have_value("123")
    artist.write("苹果，卡通")
    made = request_in(artist.draw())
    assert (made["prompt"], made["seed"]) == ("苹果，卡通", 123)


def test_noise_alone_needs_no_words(artist):
    artist.ask("these words are left aside", seed=3)
    artist.find("#generate-noise-only input").check()
    made = request_in(artist.draw())
    assert (made["prompt"], made["cfg_scale"]) == ("", 1.0)
    expect(artist.find("#generate-details")).to_contain_text("from noise alone")


def test_a_drawn_picture_can_be_the_start_of_the_next(artist):
    artist.ask("sun, flat", seed=8)
    source = pixels(artist.draw())
    artist.find("#generate-to-image").click()
    expect(artist.find("#generate-image img")).to_be_visible()
    artist.number("strength", 0.3)
    made = request_in(artist.draw())
    assert made["strength"] == pytest.approx(0.3)
    assert made["image"] and source.size == (made["width"], made["height"])


def test_a_reload_shows_the_pictures(artist):
    artist.ask("a green tree", seed=77)
    artist.draw()
    artist.page.reload()
    expect(artist.find("#generate-gallery .caption-label").first).to_have_text("seed 77")


def test_a_reload_follows_what_still_runs(artist):
    artist.ask("a green tree", seed=78, steps=150)
    artist.number("count", 16)  # long enough to be met again on any machine
    artist.find("#generate-run").click()
    expect(artist.find("#generate-status .running")).to_be_visible()
    artist.page.reload()
    expect(artist.find("#generate-status .running")).to_contain_text("Step")
    artist.find("#generate-stop").click()
    expect(artist.find("#generate-status .cancelled")).to_have_text("Stopped.")


def test_a_model_by_tokens_has_settings_of_its_own(artist):
    artist.choose_model("icons-diffusion")
    expect(artist.find("#generate-sampler")).to_be_visible()
    artist.choose_model("my-tokens")
    expect(artist.find("#generate-sampler")).to_be_hidden()
    expect(artist.find("#generate-steps input[type=number]")).to_have_value(str(SUITED["token-transformer"]["steps"]))
    artist.open("Tokens in detail")
    artist.number("top-k", 5)
    artist.ask("red disc", seed=12, steps=5)
    request = request_in(artist.draw())
    assert (request["model"], request["top_k"]) == ("my-tokens", 5)
    expect(artist.find("#generate-details")).to_contain_text("Halton")
    artist.choose_model("icons-diffusion")
    expect(artist.find("#generate-sampler")).to_be_visible()
    expect(artist.find("button.label-wrap", has_text="Tokens in detail")).to_be_hidden()
    expect(artist.find("#generate-steps input[type=number]")).to_have_value("5")  # as the artist has set it


def test_a_model_of_few_steps_has_its_path_and_its_guidance_within(artist):
    expect(artist.find("#generate-sampler")).to_be_hidden()
    expect(artist.find("button.label-wrap", has_text="Guidance in detail")).to_be_hidden()
    expect(artist.find("#generate-steps input[type=number]")).to_have_value(str(SUITED["few-step-diffusion"]["steps"]))
    artist.ask("red heart, glossy", seed=13)
    assert request_in(artist.draw())["model"] == "icons-quick"
    artist.find("#generate-negative textarea").fill("blue")
    artist.find("#generate-run").click()
    expect(artist.find("#generate-status .failed")).to_contain_text("draw with “icons-diffusion”")
    artist.choose_model("icons-diffusion")
    assert request_in(artist.draw())["negative"] == "blue"


def test_markup_in_a_prompt_is_shown_as_text(artist):
    words = "<img src onerror=ran=1>"
    artist.ask(words, seed=9)
    assert request_in(artist.draw())["prompt"] == words
    expect(artist.find("#generate-details b")).to_have_text(words)
    assert artist.page.evaluate("window.ran ?? null") is None


def test_an_example_fills_the_prompt(artist):
    artist.find(".chip", has_text="苹果，卡通").click()
    expect(artist.find("#generate-prompt textarea")).to_have_value("苹果，卡通")


def test_a_picture_without_settings_gets_a_sentence(artist, tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "plain.png")
    artist.read_settings(tmp_path / "plain.png")
    assert is_one_sentence(artist.told("holds no settings"))
