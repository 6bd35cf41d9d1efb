"""The workshop of the Reconstruct tab: the tokens of a picture, to be looked at and changed by hand."""

import base64
from dataclasses import dataclass, replace
from types import SimpleNamespace

import gradio as gr
import numpy as np

from engines.checkpoints import tokens as token_files
from engines.errors import BadRequest
from engines.requests import CodebookRequest, ReconstructRequest
from engines.vqgan import editing
from studio import images
from studio.tabs.common import guard, remembered, temporary
from studio.texts import say, t
from studio.token_map import TokenMap

TOOLS = ("brush", "fill", "pick", "swap")
ORDERS = ("number", "use", "colour")


@dataclass(frozen=True)
class Edit:
    """A picture under change: every state that its tokens went through, and the one that is shown."""

    model: str
    sha256: str  # of the model
    size: tuple[int, int]  # of the picture in pixels
    history: tuple[np.ndarray, ...]
    position: int = 0
    second: np.ndarray | None = None  # the tokens of another picture, to swap and mix with

    @property
    def tokens(self):
        return self.history[self.position]

    def after(self, tokens):
        """The edit with new tokens; what was undone before is forgotten. Nothing new is no step."""
        if np.array_equal(tokens, self.tokens):
            return self
        return replace(self, history=(*self.history[: self.position + 1], tokens), position=self.position + 1)

    def moved(self, steps):
        """The edit undone (-1) or done again (+1); at either end it stays as it is."""
        return replace(self, position=min(max(self.position + steps, 0), len(self.history) - 1))

    def file(self):
        return token_files.to_bytes(token_files.Tokens(self.tokens, self.size, self.sha256))


def draw():
    """Draw the workshop; returns its parts."""
    with gr.Accordion(t("workshop"), open=False, elem_id="workshop"):
        gr.Markdown(t("workshop.help"), elem_classes="hint")
        begin = gr.Button(t("workshop.begin"), size="sm", elem_id="workshop-begin")
        with gr.Column(visible=False, elem_id="workshop-bench") as bench:
            with gr.Row():
                tool = gr.Radio(
                    [(t(f"tool.{name}"), name) for name in TOOLS], value="brush", label=t("tool"), info=t("tool.help"),
                    elem_id="workshop-tool",
                )  # fmt: skip
                code = gr.Number(
                    0, label=t("token_code"), info=t("token_code.help"), precision=0, minimum=0, elem_id="workshop-code"
                )
            canvas = TokenMap(elem_id="workshop-map")
            with gr.Row():
                order = gr.Radio(
                    [(t(f"codes.{name}"), name) for name in ORDERS], value="colour", label=t("codes"),
                    info=t("codes.help"), elem_id="workshop-order",
                )  # fmt: skip
                coloured = gr.Checkbox(label=t("coloured"), info=t("coloured.help"), elem_id="workshop-coloured")
            with gr.Row(elem_classes="actions"):
                undo = gr.Button(t("undo"), size="sm", elem_id="workshop-undo")
                redo = gr.Button(t("redo"), size="sm", elem_id="workshop-redo")
                second = gr.Button(t("second"), size="sm", elem_id="workshop-second")
                keep = gr.Button(t("keep"), size="sm", variant="primary", elem_id="workshop-keep")
            with gr.Row():
                share = gr.Slider(
                    0, 1, 0.5, step=0.05, label=t("share"), info=t("share.help"), buttons=[], elem_id="workshop-share"
                )
                mix = gr.Button(t("mix"), size="sm", elem_id="workshop-mix")
    return SimpleNamespace(
        begin=begin, bench=bench, tool=tool, code=code, canvas=canvas, order=order, coloured=coloured, undo=undo,
        redo=redo, second=second, keep=keep, share=share, mix=mix, edit=gr.State(None), book=gr.State(None),
    )  # fmt: skip


def wire(studio, parts, job, save, run_job):
    """Wire the workshop.

    `job` holds the id of the job whose picture is taken up; `save` is the button that downloads tokens;
    `run_job(event, function, inputs)` makes an event run a function that submits a job, and shows what comes of it.
    """
    view = [parts.code, parts.order, parts.coloured]
    shown = [parts.edit, parts.canvas, parts.undo, parts.redo, save]

    def begin(job, before, code, order, coloured, request: gr.Request):
        state = remembered(studio, job)
        if state is None or state.result is None or getattr(state.result, "tokens", None) is None:
            raise BadRequest(say(request, "workshop.nothing"))
        saved = token_files.from_bytes(state.result.tokens)
        name = state.result.record["request"]["model"]
        codes = studio.jobs.aside(CodebookRequest(name))
        book = {
            "sheet": temporary("codebook.png", images.png_bytes(codes.sheet)),
            "columns": codes.columns,
            "factor": codes.factor,
            "by_colour": codes.by_colour,
        }
        edit = Edit(name, saved.model, saved.size, (saved.indices,), second=before.second if before else None)
        return show(edit, book, code, order, coloured, state.result.reconstruction) | {
            parts.book: book,
            parts.bench: gr.Column(visible=True),
            parts.code: gr.Number(maximum=len(codes.by_colour) - 1),
        }

    def show(edit, book, code, order, coloured, picture=None):
        if picture is None:
            picture = studio.jobs.aside(ReconstructRequest(model=edit.model, tokens=edit.file())).reconstruction
        n_embed = len(book["by_colour"])
        high, wide = edit.tokens.shape
        used = np.bincount(edit.tokens.reshape(-1), minlength=n_embed)
        orders = {
            "number": range(n_embed),
            "use": np.argsort(-used, kind="stable").tolist(),
            "colour": book["by_colour"],
        }
        value = {
            "width": wide,
            "height": high,
            "tokens": edit.tokens.reshape(-1).tolist(),
            "picture": "data:image/png;base64," + base64.b64encode(images.png_bytes(picture)).decode(),
            "sheet": {"path": book["sheet"], "meta": {"_type": "gradio.FileData"}},
            "columns": book["columns"],
            "factor": book["factor"],
            "order": list(orders[order]),
            "code": int(code or 0),
            "coloured": coloured,
        }
        return {
            parts.edit: edit,
            parts.canvas: value,
            parts.undo: gr.Button(interactive=edit.position > 0),
            parts.redo: gr.Button(interactive=edit.position < len(edit.history) - 1),
            save: gr.DownloadButton(value=temporary("tokens.npz", edit.file()), interactive=True),
        }

    def stroke(edit, book, tool, code, order, coloured, event: gr.EventData, request: gr.Request):
        cells = [(int(row), int(column)) for row, column in event.cells]
        if tool == "pick":
            code = int(edit.tokens[cells[-1]])
            return show(edit, book, code, order, coloured) | {parts.code: code}
        if tool == "swap":
            others = other(edit, request)
            tokens, others = editing.swap(edit.tokens, others, cells)
            return show(replace(edit.after(tokens), second=others), book, code, order, coloured)
        fills = tool == "fill"
        tokens = editing.fill(edit.tokens, cells[0], code) if fills else editing.paint(edit.tokens, cells, code)
        return show(edit.after(tokens), book, code, order, coloured)

    def choose(event: gr.EventData):
        return event.code

    def other(edit, request):
        if edit.second is None:
            raise BadRequest(say(request, "workshop.no_second"))
        return edit.second

    def mix(edit, book, share, code, order, coloured, request: gr.Request):
        return show(edit.after(editing.mix(edit.tokens, other(edit, request), share)), book, code, order, coloured)

    def move(steps):
        def moved(edit, book, code, order, coloured):
            return show(edit.moved(steps), book, code, order, coloured)

        return moved

    def remember(edit, request: gr.Request):
        gr.Info(say(request, "workshop.remembered"))
        return replace(edit, second=edit.tokens)

    def keep(edit):
        return studio.jobs.submit(ReconstructRequest(model=edit.model, tokens=edit.file()))

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    state = [parts.edit, parts.book]
    parts.begin.click(lambda: gr.Button(interactive=False), None, parts.begin, **quiet).then(
        guard(begin), [job, parts.edit, *view], [*shown, parts.book, parts.bench, parts.code], **quiet
    ).then(lambda: gr.Button(interactive=True), None, parts.begin, **quiet)
    parts.canvas.stroke(guard(stroke), [*state, parts.tool, *view], [*shown, parts.code], **quiet)
    parts.canvas.choose(guard(choose), None, parts.code, **quiet)
    parts.undo.click(guard(move(-1)), [*state, *view], shown, **quiet)
    parts.redo.click(guard(move(1)), [*state, *view], shown, **quiet)
    parts.mix.click(guard(mix), [*state, parts.share, *view], shown, **quiet)
    parts.second.click(guard(remember), parts.edit, parts.edit, **quiet)
    for control in (parts.order, parts.coloured):
        control.input(guard(move(0)), [*state, *view], shown, **quiet)
    run_job(parts.keep.click, keep, parts.edit)
