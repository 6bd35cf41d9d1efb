"""The real studio with the shipped models, and a real browser in which a person works on its page."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright

from engines.esrgan import SRVGGConfig, SRVGGNet
from tests import tiny
from tests.browser.artist import PATIENCE, Artist

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

def find_browser():
    """The path of a Chromium or Chrome, installed first on a Debian that has none; None if there is no way."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found or not shutil.which("apt-get") or os.geteuid() != 0:
        return found
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "chromium"]):
        if subprocess.run(["apt-get", *words], env=quiet).returncode:
            return None
    return shutil.which("chromium")


@pytest.fixture(scope="session")
def browser():
    path = find_browser()
    if path is None:
        sentence = "The browser tests need Chromium or Chrome: install one, in Debian with `apt-get install chromium`."
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def running(home, *options):
    """Where the studio answers while inside: `python app.py` with `options` on the folder `home`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--home", str(home), "--port", str(port), *options]
    with open(home / "studio.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE / 1000
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"The studio did not start:\n{(home / 'studio.log').read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            assert process.wait(30) == 0, "the studio was stopped, and did not end in order"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """Where a studio answers that has small models of the artist's beside the shipped ones.

    They are a token model, its VQGAN `mirror`, another VQGAN `lonely`, and an upscaler.
    """
    home = tmp_path_factory.mktemp("home")
    tiny.save(home / "models" / "my-tokens.safetensors", tiny.token_generator())
    tiny.save(home / "models" / "lonely.safetensors", tiny.vqgan(1))
    tiny.save(home / "models" / "my-upscaler.safetensors", tiny.upscaler())
    torch.save({"params_ema": SRVGGNet(SRVGGConfig(ch=8, blocks=2, scale=2)).state_dict()}, home / "models" / "old.pth")
    (home / "models" / "no.ckpt").write_text("no file of torch")
    with running(home) as url:
        yield url


def _answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def visit(browser, address):
    """`visit(**context options)` is an `Artist` at the page; nothing may leave the machine or fail in the script."""
    contexts, wrong = [], []

    def visit(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: _is_local(request.url, address) or wrong.append(request.url))
        context.on("weberror", lambda problem: wrong.append(str(problem.error)))
        return Artist(context.new_page(), address)

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


def _is_local(url, address):
    return url.startswith((address, address.replace("http", "ws", 1), "data:", "blob:"))


@pytest.fixture
def artist(visit):
    return visit()
