"""What the tabs share: controls from the requests' own table, errors as sentences, progress as a line."""

import dataclasses
import functools
import html
import inspect
import logging
import os
import secrets
import tempfile
from pathlib import Path

import gradio as gr

from engines import requests
from engines.catalog import autoencoders_for, catalog
from engines.errors import AtelierError, BadRequest
from studio import images
from studio.jobs import FINAL
from studio.texts import say, t

SESSIONS = 1000  # pages of which something is kept
# Of events that show by what they change that they are at work. At every step of any event gradio's page goes over
# all parts on which one shows its progress, be it hidden: these show it on none.
QUIET = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}

log = logging.getLogger(__name__)


class Latest(dict):
    """What the latest pages have set, by their session; those that set nothing for long are forgotten."""

    def __setitem__(self, session, value):
        self.pop(session, None)
        super().__setitem__(session, value)
        while len(self) > SESSIONS:
            self.pop(next(iter(self)))


class Upload(gr.Image):
    """A picture as the path of what was sent, unread: our own loader judges it."""

    def get_block_name(self):
        return "image"

    def preprocess(self, payload):
        return payload.path if payload else None


def upload(tab, height, label="picture"):
    """The `Upload` of a tab; `label` is the key of its words."""
    return Upload(
        type="filepath", format="png", image_mode=None, sources=["upload", "clipboard"], label=t(label),
        elem_id=f"{tab}-image", elem_classes="upload", height=height,
    )  # fmt: skip


class Offered(gr.Dropdown):
    """A choice that a browser may remember from other models or files: what is wrong with it is said by the engine."""

    def get_block_name(self):
        return "dropdown"

    def preprocess(self, payload):
        return payload or ""


def control(request, name, tab, **options):
    """The component for one field of a request: bounds, default and help as the field says."""
    meta = requests.control(request, name)
    options = {
        "label": t(name),
        "info": t(f"{name}.help"),
        "value": meta["default"],
        "elem_id": f"{tab}-{name.replace('_', '-')}",
    } | options
    if "choices" in meta:
        return gr.Dropdown([(t(f"{name}.{choice}"), choice) for choice in meta["choices"]], **options)
    if "low" in meta:
        if meta["high"] > 10_000:
            return gr.Number(minimum=meta["low"], maximum=meta["high"], precision=0, **options)
        return gr.Slider(meta["low"], meta["high"], step=meta["step"], buttons=[], **options)
    return gr.Textbox(**options)


def cleaning_controls(request, tab, columns):
    """The components of all that cleans a picture up by plain means, by the names of their fields, in rows."""
    names = [item.name for item in dataclasses.fields(requests.Cleaned) if item.name != "image"]
    made = {}
    for first in range(0, len(names), columns):
        with gr.Row():
            made |= {name: control(request, name, tab) for name in names[first : first + columns]}
    return made


def before_after(elem_id):
    """Two pictures under one slider."""
    return gr.ImageSlider(
        show_label=False, format="png", interactive=False, elem_id=elem_id, elem_classes="stage", max_height=560
    )


def kept(inputs, path, request):
    """Keep a picture that was chosen, and say what of its file is not; returns its key."""
    lost = images.losses(path)
    if lost:
        gr.Info(" ".join(say(request, f"lost.{key}") for key in lost))
    return inputs.keep(path)


def named(components, values):
    """What gradio gives for a set of inputs, by the names of `components`."""
    return {name: values[component] for name, component in components.items()}


def guard(handler):
    """`handler` with its failures as one sentence on the page; a traceback goes to the log alone."""

    def sentence(error):
        if isinstance(error, AtelierError):
            return str(error)
        number = secrets.token_hex(4)
        log.error("failure %s", number, exc_info=error)
        return f"Something went wrong (id {number}); the log has the details. Try again or change the settings."

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def guarded(*arguments):
            try:
                yield from handler(*arguments)
            except gr.Error:
                raise
            except Exception as error:
                raise gr.Error(html.escape(sentence(error)), print_exception=False) from error
    else:

        @functools.wraps(handler)
        def guarded(*arguments):
            try:
                return handler(*arguments)
            except gr.Error:
                raise
            except Exception as error:
                raise gr.Error(html.escape(sentence(error)), print_exception=False) from error

    return guarded


def status(state, request):
    """A job as one line of HTML: a slim bar while it runs, what came of it after."""
    job = f'data-job="{state.id}"'
    if state.state == "failed":
        return f'<div class="status failed" role="alert" {job}>{html.escape(state.error)}</div>'
    if state.state == "cancelled":
        return f'<div class="status cancelled" {job}>{say(request, "cancelled")}</div>'
    if state.state == "done":
        text = say(request, "done", seconds=state.seconds) if state.seconds else ""
        text += " " + html.escape(getattr(state.result, "note", ""))
        return f'<div class="status done" {job}>{text}</div>'
    share, words = 0, say(request, "starting")
    if state.state in ("waiting", "held"):
        words = say(request, state.state, ahead=state.ahead)
    elif state.progress:
        share = state.progress.index / state.progress.count
        words = say(request, "step", index=state.progress.index, count=state.progress.count)
    if state.seconds_left is not None:
        words += " · " + left(state.seconds_left, request)
    if state.resumed:
        words += " · " + say(request, "resumed")
    bar = f'<div class="bar"><div style="width:{share:.1%}"></div></div>'
    return f'<div class="status running" role="status" {job}>{bar}<span>{words}</span></div>'


def left(seconds, request):
    """How long something will take, in words."""
    if seconds < 100:
        return say(request, "left_seconds", seconds=round(seconds))
    return say(request, "left_minutes", minutes=round(seconds / 60))


def standing(state, request, line, run, stop):
    """How a job stands, as updates of its line and of the buttons that run and stop it."""
    busy = state.state not in FINAL
    return {line: status(state, request), run: gr.Button(interactive=not busy), stop: gr.Button(interactive=busy)}


def chosen_entry(studio, entries, index, request):
    """The picture at `index` of the ids `entries` that a page shows. Raises `BadRequest` where there is none."""
    entry = studio.gallery.get(entries[index]) if entries else None
    if entry is None:
        raise BadRequest(say(request, "nothing_chosen"))
    return entry


def remembered(studio, job):
    """The state of a job that a browser remembers, or None: it may be of another home."""
    try:
        return studio.jobs.state(job) if job else None
    except BadRequest:
        return None


def temporary(name, data):
    """The path of a file of that name and content that the browser may fetch; it goes with the studio's process."""
    path = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])) / name
    path.write_bytes(data)
    return str(path)


def file_of(path):
    """A file that the browser may fetch, as it stands inside a value."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def sent(value):
    """The path of a file that a browser or a script sent. Raises `BadRequest` for a path that was made up."""
    path = Path(value.get("path", "")) if isinstance(value, dict) else Path()
    if not path.is_file() or not path.resolve().is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve()):
        raise BadRequest("There is no picture: send one by `handle_file` of gradio_client.")
    return path


def tokens_button(tokens):
    """The button that downloads `tokens`, the bytes of a file; without any it cannot be pressed."""
    path = None if tokens is None else temporary("tokens.npz", tokens)
    return gr.DownloadButton(value=path, interactive=path is not None)


def style_control(tab):
    """The choice of a style, with none as the first."""
    styles = [(t(f"style.{name or 'any'}"), name) for name in ("", *requests.STYLES)]
    return gr.Radio(styles, value="", label=t("style"), info=t("style.help"), elem_id=f"{tab}-style")


def model_choices(rows):
    """Rows of the catalog as a dropdown takes them: what they are called, and their ids."""
    return [(row.card.get("title", row.id), row.id) for row in rows]


def model_control(home, task, info, tab="", field="model"):
    """The dropdown for a `field` of a `tab`, by default `task`'s own, of the models that can do `task`.

    `info` keys its help.
    """
    choices = model_choices(row for row in catalog(home).values() if task in row.tasks)
    chosen = choices[0][1] if choices else None
    return gr.Dropdown(choices, value=chosen, label=t(field), info=t(info), elem_id=f"{tab or task}-{field}")


def autoencoder_control(home, tab, model):
    """The choice among the autoencoders that a `model` can draw with; not shown where there is none but its own."""
    choices = _autoencoders(home, model, t("vae.own"))
    return Offered(
        choices, value="", label=t("vae"), info=t("vae.help"), visible=len(choices) > 1, elem_id=f"{tab}-vae"
    )


def wire_autoencoder(studio, fields, rescan):
    """Let the choice of an autoencoder among the `fields` follow the model that is chosen, and the button `rescan`.

    What a preset, a link or a browser names, and the model cannot draw with, gives way to the model's own.
    """

    def follow(model, chosen, request: gr.Request):
        choices = _autoencoders(studio.home, model, say(request, "vae.own"))
        kept = chosen if chosen in [name for _, name in choices] else ""
        return gr.Dropdown(choices, value=kept, visible=len(choices) > 1)

    gr.on(
        [fields["model"].change, fields["vae"].change, rescan.click], guard(follow),
        [fields["model"], fields["vae"]], fields["vae"], **QUIET,
    )  # fmt: skip


def _autoencoders(home, model, own):
    row = catalog(home).get(model)
    return [(own, ""), *model_choices(autoencoders_for(row, home) if row else [])]
