"""What a person does at the page: fill the form, press, look."""

import io
import re

from PIL import Image
from playwright.sync_api import expect

from studio import images

PATIENCE = 120_000  # milliseconds for anything to happen; on an idle machine all of it takes a second or two

TRIES = 5  # of typing a number

expect.set_options(timeout=PATIENCE)


class Artist:
    """One person at the page, with a browser of their own."""

    def __init__(self, page, address):
        self.page = page
        page.goto(address)
        expect(self.find("#generate-run")).to_be_visible()

    def find(self, selector, **options):
        return self.page.locator(selector, **options)

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def open(self, accordion):
        self.find("button.label-wrap", has_text=accordion).click()

    def write(self, prompt):
        self.find("#generate-prompt textarea").fill(prompt)

    def number(self, name, value):
        box = self.find(f"#generate-{name} input[type=number]")
        for _ in range(TRIES):  # a control that has just come in may still take its first value; people type again
            box.fill(str(value))
            box.blur()
            self.page.wait_for_timeout(200)
            if box.input_value() == str(value):
                break
        expect(box).to_have_value(str(value))

    def ask(self, prompt, seed, steps=4):
        """Fill the form."""
        self.write(prompt)
        self.find("#generate-random-seed input").uncheck()
        self.number("seed", seed)
        self.number("steps", steps)

    def choose_model(self, name):
        self.find("#generate-model input").click()
        self.page.get_by_role("option", name=name).click()

    def read_settings(self, path):
        with self.page.expect_file_chooser() as chooser:
            self.find("#generate-reuse").click()
        chooser.value.set_files(path)

    def draw(self):
        """Press Generate and wait; returns the PNG of the first new picture, as the page shows it."""
        before = self.shown()
        job = self.page.evaluate("document.querySelector('#generate-status .status')?.dataset.job ?? null")
        self.find("#generate-run").click()
        return self.drawn(before, job)

    def drawn(self, before, job=None):
        """Wait for a picture that is not `before`, and for the end of a job that is not `job`; returns its PNG."""
        self.page.wait_for_function(
            """([before, job]) => {
                const image = document.querySelector('#generate-gallery img');
                const status = document.querySelector('#generate-status :is(.done, .failed)');
                if (!status || status.dataset.job === job) return false;
                return status.matches('.failed') || (image && image.src !== before);
            }""",
            arg=[before, job],
        )
        failed = self.find("#generate-status .failed")
        assert not failed.count(), failed.inner_text()
        return self.page.request.get(self.shown()).body()

    def shown(self):
        """The address of the first picture on the page, or None."""
        return self.page.evaluate("document.querySelector('#generate-gallery img')?.src ?? null")

    def told(self, words):
        """Wait for a message that says `words`, and close it; returns all that it says."""
        # found and read at once: one that leaves by itself is gone at the next look
        said = self.page.wait_for_function(
            """words => [...document.querySelectorAll('[data-testid=toast-body]')]
                .find(message => message.textContent.toLowerCase().includes(words.toLowerCase()))
                ?.querySelector('[data-testid=toast-text]').innerText""",
            arg=words,
        ).json_value()
        message = self.page.get_by_test_id("toast-body").filter(has_text=words)
        # one that is leaving by itself cannot be clicked any more
        message.get_by_test_id("toast-close").evaluate_all("buttons => buttons.forEach(button => button.click())")
        expect(message).to_have_count(0)
        return said

    def reconstruct(self):
        """Press Reconstruct and wait for the end of its job; returns the figures by their names."""
        before = self.page.evaluate("document.querySelector('#reconstruct-status .status')?.dataset.job ?? null")
        self.find("#reconstruct-run").click()
        self.page.wait_for_function(
            """before => {
                const done = document.querySelector('#reconstruct-status .done');
                return done && done.dataset.job !== before;
            }""",
            arg=before,
        )
        return self.figures()

    def figures(self):
        """Wait for the figures of a reconstruction; returns them by their names."""
        expect(self.find("#reconstruct-status .done")).to_be_attached()
        cells = self.find("#reconstruct-figures .figures > div")
        expect(cells).to_have_count(6)
        return dict(reversed(text.split("\n")) for text in cells.all_inner_texts())


def pixels(png):
    """The RGB picture in the bytes of a PNG."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def request_in(png):
    """The request inside the bytes, or the file, of a PNG that the studio made."""
    return images.read_record(png)["request"]


def is_one_sentence(text):
    """Whether an artist could act on `text`: no traceback, no path, no name of a class."""
    return text.strip().endswith(".") and not re.search(r"Traceback|Error\b|File \"|/tmp|0x", text)
