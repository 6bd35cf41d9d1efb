"""The workshop of the Reconstruct tab: the tokens of a picture, to be looked at and changed by hand."""

import secrets
from dataclasses import dataclass, replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
from PIL import Image

from engines.catalog import catalog, find
from engines.checkpoints import tokens as token_files
from engines.errors import BadRequest
from engines.requests import CodebookRequest, ReconstructRequest, ResampleRequest, suited
from engines.vqgan import editing
from studio import images
from studio.jobs import FINAL
from studio.tabs.common import (
    QUIET,
    control,
    guard,
    model_choices,
    remembered,
    standing,
    style_control,
    temporary,
    tokens_button,
)
from studio.texts import say, t
from studio.token_map import TokenMap

TOOLS = ("brush", "fill", "pick", "swap", "mark")
ORDERS = ("number", "use", "colour")
STEPS_KEPT = 200  # of an edit, to be undone


@dataclass(frozen=True)
class Edit:
    """A picture under change: every state that its tokens went through, and the one that is shown."""

    id: str  # of the taking up
    model: str
    sha256: str  # of the model
    size: tuple[int, int]  # of the picture in pixels
    history: tuple[np.ndarray, ...]
    position: int = 0
    picture: str = ""  # of the tokens that are shown, as a data URL; empty until it is drawn
    second: np.ndarray | None = None  # the tokens of another picture, to swap and mix with
    code: int = 0  # what the brush paints
    marked: np.ndarray | None = None  # where it is to be drawn anew, bool; None is nowhere

    @property
    def tokens(self):
        return self.history[self.position]

    def after(self, tokens):
        """The edit with new tokens; what was undone before is forgotten. Nothing new is no step."""
        if np.array_equal(tokens, self.tokens):
            return self
        history = (*self.history[: self.position + 1], tokens.astype(self.tokens.dtype))[-STEPS_KEPT:]
        return replace(self, history=history, position=len(history) - 1, picture="")

    def moved(self, steps):
        """The edit undone (-1) or done again (+1); at either end it stays as it is."""
        position = min(max(self.position + steps, 0), len(self.history) - 1)
        return self if position == self.position else replace(self, position=position, picture="")

    def mark(self, cells):
        """The edit with `cells` marked, or no longer marked where the first of them already was."""
        marked = np.zeros(self.tokens.shape, bool) if self.marked is None else self.marked.copy()
        value = not marked[cells[0]]
        for cell in cells:
            marked[cell] = value
        return replace(self, marked=marked if marked.any() else None)

    def file(self):
        return token_files.to_bytes(token_files.Tokens(self.tokens, self.size, self.sha256))


@dataclass(frozen=True)
class Book:
    """The codebook that an edit paints from: the file of its sheet, how it lies there, and its codes by colour."""

    sheet: str
    columns: int
    factor: int
    by_colour: tuple[int, ...]


@dataclass(frozen=True)
class Redrawing:
    """A job that draws tokens anew, and the edit and the tokens that it began with."""

    job: str
    edit: str
    tokens: np.ndarray


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
                    0, label=t("token_code"), info=t("token_code.help"), precision=0, elem_id="workshop-code"
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
            no_generator = gr.Markdown(t("workshop.no_generator"), elem_classes="hint", visible=False)
            with gr.Column(elem_id="workshop-words") as words:
                prompt = control(ResampleRequest, "prompt", "workshop", label=t("redraw"), info=t("redraw.help"))
                style = style_control("workshop")
                generator = gr.Dropdown(label=t("model"), info=t("model.help"), elem_id="workshop-model")
                with gr.Row(elem_classes="actions"):
                    mark_all = gr.Button(t("mark_all"), size="sm", elem_id="workshop-mark-all")
                    unmark = gr.Button(t("unmark"), size="sm", elem_id="workshop-unmark")
                    redraw = gr.Button(t("redraw.run"), size="sm", variant="primary", elem_id="workshop-redraw")
                    stop = gr.Button(t("stop"), size="sm", interactive=False, elem_id="workshop-stop")
                line = gr.HTML(elem_id="workshop-status", elem_classes="line")
    return SimpleNamespace(
        begin=begin, bench=bench, tool=tool, code=code, canvas=canvas, order=order, coloured=coloured, undo=undo,
        redo=redo, second=second, keep=keep, share=share, mix=mix, no_generator=no_generator, words=words,
        prompt=prompt, style=style, generator=generator, mark_all=mark_all, unmark=unmark, redraw=redraw, stop=stop,
        line=line, edit=gr.State(None), book=gr.State(None), redrawing=gr.State(None),
    )  # fmt: skip


def wire(studio, parts, job, save, run_job):
    """Wire the workshop.

    `job` holds the id of the job whose picture is taken up; `save` is the button that downloads tokens;
    `run_job(event, function, inputs)` makes an event run a function that submits a job, and shows what comes of it.
    """
    state = [parts.edit, parts.book]
    view = [parts.order, parts.coloured]
    shown = [parts.edit, parts.canvas, parts.code, parts.undo, parts.redo, save]

    def begin(job, before, order, coloured, request: gr.Request):
        state = remembered(studio, job)
        if state is not None and state.state == "done" and state.result is None:
            raise BadRequest(say(request, "workshop.expired"))
        if state is None or getattr(state.result, "tokens", None) is None:
            raise BadRequest(say(request, "workshop.nothing"))
        saved = token_files.from_bytes(state.result.tokens)
        name = state.result.record["request"]["model"]
        codes = studio.jobs.aside(CodebookRequest(name))
        sheet = temporary("codebook.png", images.png_bytes(codes.sheet))
        book = Book(sheet, codes.columns, codes.factor, codes.by_colour)
        edit = Edit(secrets.token_hex(8), name, saved.model, saved.size, (saved.indices.astype(np.uint32),))
        if before and before.sha256 == edit.sha256:  # the codes of another model mean something else
            edit = replace(edit, second=before.second, code=before.code)
        edit = replace(edit, picture=images.data_url(state.result.reconstruction))
        drawers = model_choices(
            row for row in catalog(studio.home).values()
            if "resample" in row.tasks and row.first_stage["sha256"] == edit.sha256
        )  # fmt: skip
        return show(edit, book, order, coloured) | {
            parts.book: book,
            parts.bench: gr.Column(visible=True),
            parts.words: gr.Column(visible=bool(drawers)),
            parts.no_generator: gr.Markdown(visible=not drawers),
            parts.generator: gr.Dropdown(drawers, value=drawers[0][1] if drawers else None),
        }

    def show(edit, book, order, coloured):
        file = edit.file()
        if not edit.picture:
            drawn = studio.jobs.aside(ReconstructRequest(model=edit.model, tokens=file)).reconstruction
            edit = replace(edit, picture=images.data_url(drawn))
        n_embed = len(book.by_colour)
        high, wide = edit.tokens.shape
        used = np.bincount(edit.tokens.reshape(-1), minlength=n_embed)
        orders = {"number": range(n_embed), "use": np.argsort(-used, kind="stable").tolist(), "colour": book.by_colour}
        value = {
            "width": wide,
            "height": high,
            "tokens": edit.tokens.reshape(-1).tolist(),
            "picture": edit.picture,
            "sheet": {"path": book.sheet, "meta": {"_type": "gradio.FileData"}},
            "columns": book.columns,
            "factor": book.factor,
            "order": list(orders[order]),
            "code": edit.code,
            "coloured": coloured,
            "marked": [] if edit.marked is None else np.flatnonzero(edit.marked).tolist(),
        }
        return {
            parts.edit: edit,
            parts.canvas: value,
            parts.code: edit.code,
            parts.undo: gr.Button(interactive=edit.position > 0),
            parts.redo: gr.Button(interactive=edit.position < len(edit.history) - 1),
            save: tokens_button(file),
        }

    def held(edit, request):
        # gradio forgets a page that was away for an hour
        if edit is None:
            raise BadRequest(say(request, "workshop.gone"))
        return edit

    def stroke(edit, book, order, coloured, tool, event: gr.EventData, request: gr.Request):
        edit = held(edit, request)
        cells = _cells(event, edit.tokens.shape)
        if not cells:
            return show(edit, book, order, coloured)
        if tool == "pick":
            edit = replace(edit, code=int(edit.tokens[cells[-1]]))
        elif tool == "mark":
            edit = edit.mark(cells)
        elif tool == "swap":
            tokens, others = editing.swap(edit.tokens, other(edit, request), cells)
            edit = replace(edit.after(tokens), second=others)
        else:
            edit = chosen(edit, book, event.code, request)
            if tool == "fill":
                edit = edit.after(editing.fill(edit.tokens, cells[0], edit.code))
            else:
                edit = edit.after(editing.paint(edit.tokens, cells, edit.code))
        return show(edit, book, order, coloured)

    def chosen(edit, book, code, request):
        if not isinstance(code, int) or not 0 <= code < len(book.by_colour):
            raise BadRequest(say(request, "workshop.no_code", last=len(book.by_colour) - 1))
        return replace(edit, code=code)

    def choose(edit, book, order, coloured, event: gr.EventData, request: gr.Request):
        return show(chosen(held(edit, request), book, event.code, request), book, order, coloured)

    def enter(edit, book, order, coloured, code, request: gr.Request):
        return show(chosen(held(edit, request), book, code, request), book, order, coloured)

    def other(edit, request):
        if edit.second is None:
            raise BadRequest(say(request, "workshop.no_second"))
        return edit.second

    def mix(edit, book, order, coloured, share, request: gr.Request):
        edit = held(edit, request)
        tokens = editing.mix(edit.tokens, other(edit, request), share, seed=edit.position)
        return show(edit.after(tokens), book, order, coloured)

    def move(steps):
        def moved(edit, book, order, coloured, request: gr.Request):
            return show(held(edit, request).moved(steps), book, order, coloured)

        return moved

    def remember(edit, request: gr.Request):
        edit = held(edit, request)
        gr.Info(say(request, "workshop.remembered"))
        return replace(edit, second=edit.tokens)

    def mark_all(edit, book, order, coloured, request: gr.Request):
        edit = held(edit, request)
        return show(replace(edit, marked=np.ones(edit.tokens.shape, bool)), book, order, coloured)

    def unmark(edit, book, order, coloured, request: gr.Request):
        return show(replace(held(edit, request), marked=None), book, order, coloured)

    def redraw(edit, before, prompt, style, generator, request: gr.Request):
        edit = held(edit, request)
        if before and studio.jobs.state(before.job).state not in FINAL:
            raise BadRequest(say(request, "workshop.redrawing"))
        if edit.marked is None:
            raise BadRequest(say(request, "workshop.no_marks"))
        family = find(generator, "resample", studio.home, paths=False).family
        words = suited(family, {"prompt": prompt, "style": style, "cfg_scale": None})
        mask = images.png_bytes(Image.fromarray(np.uint8(255) * edit.marked))
        job = studio.jobs.submit(
            ResampleRequest(
                model=generator,
                tokens=edit.file(),
                mask=mask,
                seed=secrets.randbelow(2**32),
                **words,
            )
        )
        return Redrawing(job, edit.id, edit.tokens)

    def follow(redrawing, request: gr.Request):
        for state in studio.jobs.watch(redrawing.job):
            yield standing(state, request, parts.line, parts.redraw, parts.stop)

    def redrawn(redrawing, edit, book, order, coloured, request: gr.Request):
        state, edit = studio.jobs.state(redrawing.job), held(edit, request)
        if state.state != "done":  # the line above says why
            return gr.skip()
        if state.result is None or edit.id != redrawing.edit:
            raise BadRequest(say(request, "workshop.left"))
        drawn = token_files.from_bytes(state.result.tokens).indices
        # what was changed by hand meanwhile stays
        new = (drawn != redrawing.tokens) & (edit.tokens == redrawing.tokens)
        return show(edit.after(np.where(new, drawn, edit.tokens)), book, order, coloured)

    def keep(edit, request: gr.Request):
        edit = held(edit, request)
        return studio.jobs.submit(ReconstructRequest(model=edit.model, tokens=edit.file()))

    # One after the other, and none dropped: each takes up what the one before has left.
    queued = QUIET | {"trigger_mode": "multiple", "concurrency_id": "workshop", "concurrency_limit": 1}
    parts.begin.click(lambda: gr.Button(interactive=False), None, parts.begin, **QUIET).then(
        guard(begin),
        [job, parts.edit, *view],
        [*shown, parts.book, parts.bench, parts.words, parts.no_generator, parts.generator],
        **queued,
    ).then(lambda: gr.Button(interactive=True), None, parts.begin, **QUIET)
    parts.canvas.stroke(guard(stroke), [*state, *view, parts.tool], shown, **queued)
    parts.canvas.choose(guard(choose), [*state, *view], shown, **queued)
    parts.code.submit(guard(enter), [*state, *view, parts.code], shown, **queued)
    parts.undo.click(guard(move(-1)), [*state, *view], shown, **queued)
    parts.redo.click(guard(move(1)), [*state, *view], shown, **queued)
    parts.mix.click(guard(mix), [*state, *view, parts.share], shown, **queued)
    parts.second.click(guard(remember), parts.edit, parts.edit, **queued)
    for option in view:
        option.input(guard(move(0)), [*state, *view], shown, **queued)
    parts.mark_all.click(guard(mark_all), [*state, *view], shown, **queued)
    parts.unmark.click(guard(unmark), [*state, *view], shown, **queued)
    words = [parts.edit, parts.redrawing, parts.prompt, parts.style, parts.generator]
    gr.on([parts.redraw.click, parts.prompt.submit], guard(redraw), words, parts.redrawing, **queued).success(
        guard(follow), parts.redrawing, [parts.line, parts.redraw, parts.stop], concurrency_limit=None, **QUIET
    ).success(guard(redrawn), [parts.redrawing, *state, *view], shown, **queued)
    parts.stop.click(guard(lambda redrawing: studio.jobs.stop(redrawing.job)), parts.redrawing, None, **QUIET)
    run_job(parts.keep.click, keep, parts.edit)


def _cells(event, shape):
    """The cells of a stroke as pairs of row and column inside a map of `shape`.

    What the browser sent and is no such pair is passed over.
    """
    pairs = event.cells if isinstance(event.cells, list) else []
    return [
        tuple(pair) for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(number, int) for number in pair)
        and 0 <= pair[0] < shape[0] and 0 <= pair[1] < shape[1]
    ]
