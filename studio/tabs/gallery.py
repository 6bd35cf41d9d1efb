"""The Gallery tab: every picture that was made here, found, sorted, compared and made again."""

import contextlib
import dataclasses
import datetime
import html
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
from PIL import Image

from engines.errors import AtelierError, BadPicture, BadRequest
from engines.requests import GenerateRequest
from studio import images
from studio.gallery import PICTURES, Search, compared, request_of
from studio.jobs import FINAL
from studio.tabs.common import QUIET, Latest, guard, left
from studio.tabs.generate import filled
from studio.texts import say, t

SHOWN = 48  # pictures on a page
ZIPPED = 500  # at most in one file
MAX_IMPORT = 200  # files at once
ALWAYS = ("model", "steps", "cfg_scale", "seed", "width", "height")  # of the settings that are told
ELSEWHERE = ("prompt", "image", "tokens", "mask")  # what is told in another way, or not to be told in words
GAIN = 8  # of the shown difference between a picture and the one remade


def draw(studio):
    """Draw the tab; returns its parts."""
    with gr.Row(elem_id="gallery-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            with gr.Row():
                words = gr.Textbox(
                    label=t("gallery.words"), placeholder=t("gallery.words.help"), elem_id="gallery-words",
                    max_lines=1, scale=3,
                )  # fmt: skip
                task = gr.Dropdown(
                    [(t("gallery.any"), ""), *((t(task), task) for task in PICTURES)],
                    value="", label=t("gallery.task"), elem_id="gallery-task",
                )  # fmt: skip
                model = gr.Dropdown([(t("gallery.any"), "")], value="", label=t("model"), elem_id="gallery-model")
                board = gr.Dropdown([(t("gallery.any"), "")], value="", label=t("board"), elem_id="gallery-board")
                days = gr.Dropdown(
                    [(t("gallery.any"), 0), (t("gallery.today"), 1), (t("gallery.week"), 7), (t("gallery.month"), 31)],
                    value=0, label=t("gallery.days"), elem_id="gallery-days",
                )  # fmt: skip
            with gr.Row(elem_classes="actions"):
                starred = gr.Checkbox(label=t("gallery.starred"), elem_id="gallery-starred", container=False)
                newer = gr.Button(t("gallery.newer"), size="sm", elem_id="gallery-newer", interactive=False)
                older = gr.Button(t("gallery.older"), size="sm", elem_id="gallery-older", interactive=False)
                take_in = gr.UploadButton(
                    t("gallery.take_in"), file_types=[".png"], file_count="multiple", size="sm",
                    elem_id="gallery-take-in",
                )  # fmt: skip
            gr.Markdown(t("gallery.take_in.help"), elem_classes="hint")
        with gr.Column(elem_classes="result"):
            line = gr.HTML(elem_id="gallery-line", elem_classes="line")
            grid = gr.Gallery(
                show_label=False, format="png", columns=6, object_fit="cover", interactive=False, allow_preview=False,
                elem_id="gallery-grid", elem_classes=["stage", "grid"], height="auto", buttons=[],
            )  # fmt: skip
            gr.Markdown(t("gallery.nothing"), elem_classes=["hint", "empty"])
        with gr.Column(elem_classes="settings"):
            with gr.Column(visible=False, elem_id="gallery-one") as one:
                picture = gr.Image(
                    show_label=False, format="png", interactive=False, elem_id="gallery-picture",
                    elem_classes=["stage", "map"], buttons=["download", "fullscreen"],
                )  # fmt: skip
                details = gr.HTML(elem_id="gallery-details")
                with gr.Row(elem_classes=["actions", "wrapped"]):
                    verbs = {
                        verb: gr.Button(t(f"gallery.{verb}"), size="sm", elem_id=f"gallery-{verb}")
                        for verb in ("star", "pick", "remake", "delete")
                    }
                with gr.Row(elem_classes=["actions", "wrapped"]):
                    sends = {
                        name: gr.Button(t(name), size="sm", elem_id=f"gallery-{name.replace('_', '-')}")
                        for name in (
                            "use_settings", "to_image", "to_reconstruct", "to_inpaint", "to_upscale", "to_compare",
                        )
                    }  # fmt: skip
                put = gr.Textbox(
                    label=t("gallery.put"), info=t("gallery.put.help"), max_lines=1, elem_id="gallery-put"
                )
                made = gr.HTML(elem_id="gallery-made")
                change = gr.Image(
                    show_label=False, format="png", interactive=False, visible=False, elem_id="gallery-change",
                    elem_classes=["stage", "map"], buttons=[],
                )  # fmt: skip
            basket = gr.HTML(elem_id="gallery-basket")
            with gr.Row(elem_classes=["actions", "wrapped"]):
                side_by_side = gr.Button(t("gallery.side_by_side"), size="sm", elem_id="gallery-side-by-side")
                pack = gr.Button(t("gallery.pack"), size="sm", elem_id="gallery-pack")
                unpick = gr.Button(t("gallery.unpick"), size="sm", elem_id="gallery-unpick")
                undo = gr.Button(t("gallery.undo"), size="sm", elem_id="gallery-undo", interactive=False)
            packed = gr.DownloadButton(t("gallery.download"), size="sm", visible=False, elem_id="gallery-packed")
            pair = gr.Gallery(
                show_label=False, format="png", columns=2, visible=False, interactive=False, elem_id="gallery-pair",
                elem_classes="stage", height="auto", buttons=["fullscreen"],
            )  # fmt: skip
            table = gr.HTML(elem_id="gallery-table")
    return SimpleNamespace(
        words=words, task=task, model=model, board=board, days=days, starred=starred, newer=newer, older=older,
        take_in=take_in, line=line, grid=grid, one=one, picture=picture, details=details, verbs=verbs, sends=sends,
        put=put, made=made, change=change, basket=basket, side_by_side=side_by_side, pack=pack, unpick=unpick,
        undo=undo, packed=packed, pair=pair, table=table,
        page=gr.State(0), entries=gr.State([]), chosen=gr.State(""), picked=gr.State([]), gone=gr.State([]),
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab; `parts_of` holds the parts of all tabs by name."""
    gallery, generate = studio.gallery, parts_of["generate"]
    asked = [parts.words, parts.task, parts.model, parts.board, parts.days, parts.starred]
    shown = [parts.page, parts.entries, parts.grid, parts.line, parts.newer, parts.older, parts.model, parts.board]

    def search(words, task, model, board, days, starred):
        since = datetime.datetime.now() - datetime.timedelta(days=days) if days else None
        return Search(words, task, model, board, starred, since and since.timestamp())

    def look(page, request, *values):
        what = search(*values)
        count = gallery.count(what)
        pages = max(1, -(-count // SHOWN))
        page = min(max(page, 0), pages - 1)
        entries = gallery.find(what, SHOWN, page * SHOWN)
        choices = {column: [(t("gallery.any"), ""), *((name, name) for name in gallery.names(column))]
                   for column in ("model", "board")}  # fmt: skip
        return {
            parts.page: page,
            parts.entries: [entry.id for entry in entries],
            parts.grid: gr.Gallery([(str(gallery.thumbnail(entry)), _caption(entry)) for entry in entries],
                                   selected_index=None),
            parts.line: f'<div class="status">{say(request, "gallery.count", count=count, page=page + 1, pages=pages)}'
                        "</div>",
            parts.newer: gr.Button(interactive=page > 0),
            parts.older: gr.Button(interactive=page < pages - 1),
            parts.model: gr.Dropdown(choices["model"]),
            parts.board: gr.Dropdown(choices["board"]),
        }  # fmt: skip

    looks = Latest()

    def from_first(request: gr.Request, *values):
        # of two looks at once, of a tab that opens and of a search, the page shows the one that was asked last
        looks[request.session_hash] = mine = object()
        found = look(0, request, *values)
        return found if looks.get(request.session_hash) is mine else gr.skip()

    def turn(by):
        def turned(page, request: gr.Request, *values):
            return look(page + by, request, *values)

        return turned

    def open_(number, request):
        entry = gallery.get(number)
        if entry is None:
            raise BadRequest(say(request, "gallery.none_chosen"))
        return entry

    def choose(entries, event: gr.SelectData, request: gr.Request):
        return view(open_(entries[event.index], request), request)

    def view(entry, request):
        return {
            parts.chosen: entry.id,
            parts.one: gr.Column(visible=True),
            parts.picture: str(entry.path),
            parts.details: _facts(entry, request),
            parts.put: entry.board,
            parts.made: "",
            parts.change: gr.Image(None, visible=False),
            parts.verbs["star"]: gr.Button(say(request, "gallery.unstar" if entry.starred else "gallery.star")),
        }

    def star(number, request: gr.Request):
        entry = open_(number, request)
        gallery.star([number], not entry.starred)
        return view(gallery.get(number), request)

    def put(number, board, request: gr.Request):
        open_(number, request)
        gallery.put([number], board)

    def pick(number, picked, request: gr.Request):
        open_(number, request)
        picked = [other for other in picked if other != number] if number in picked else [*picked, number]
        return picked, _basket(picked, request)

    def delete(number, picked, page, request: gr.Request, *values):
        open_(number, request)
        gallery.delete([number])
        picked = [other for other in picked if other != number]
        return look(page, request, *values) | {
            parts.chosen: "", parts.one: gr.Column(visible=False), parts.gone: [number], parts.picked: picked,
            parts.basket: _basket(picked, request), parts.undo: gr.Button(interactive=True),
        }  # fmt: skip

    def undo(gone, page, request: gr.Request, *values):
        gallery.restore(gone)
        return look(page, request, *values) | {parts.gone: [], parts.undo: gr.Button(interactive=False)}

    def side_by_side(picked, request: gr.Request):
        if len(picked) != 2:
            raise BadRequest(say(request, "gallery.two"))
        two = [open_(number, request) for number in picked]
        return {
            parts.pair: gr.Gallery([(str(entry.path), _caption(entry)) for entry in two], visible=True),
            parts.table: _table(compared(*(entry.record for entry in two)), request),
        }

    def pack(picked, request: gr.Request, *values):
        numbers = picked or [entry.id for entry in gallery.find(search(*values), ZIPPED)]
        if not numbers:
            raise BadRequest(say(request, "gallery.none_chosen"))
        path = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])) / "atelier.zip"
        with open(path, "wb") as stream:
            gallery.zipped(numbers, stream)
        label = say(request, "gallery.packed", count=len(numbers))
        return gr.DownloadButton(value=str(path), visible=True, label=label)

    def take_in(paths, request: gr.Request, *values):
        if len(paths) > MAX_IMPORT:
            raise BadRequest(say(request, "gallery.too_many", most=MAX_IMPORT))
        taken, refused, lost = 0, [], set()
        for path in paths:
            try:
                lost |= set(gallery.take_in(path)[1])
                taken += 1
            except BadPicture as error:
                refused.append(str(error))
        told = say(request, "gallery.taken", count=taken)
        if lost:
            told += " " + say(request, "gallery.lost", names=", ".join(sorted(lost)))
        for sentence in dict.fromkeys(refused):
            told += f" {refused.count(sentence)} ×: {sentence}"
        update = look(0, request, *values)
        update[parts.line] += f'<div class="status">{html.escape(told)}</div>'
        return update

    def remake(number, request: gr.Request):
        entry = open_(number, request)
        made = request_of(images.whole_record(entry.path))
        for state in studio.jobs.watch(studio.jobs.submit(made)):
            if state.state not in FINAL:
                share = state.progress.index / state.progress.count if state.progress else 0
                words = left(state.seconds_left, request) if state.seconds_left is not None else ""
                yield {
                    parts.made: f'<div class="status running"><div class="bar"><div style="width:{share:.1%}"></div>'
                                f"</div><span>{words}</span></div>",
                    parts.change: gr.skip(),
                }  # fmt: skip
        if not state.entries:
            raise AtelierError(state.error or say(request, "cancelled"))
        yield verdict(entry, state.entries[-1], request)

    def verdict(entry, again, request):
        first, second = (np.asarray(images.read_picture(path), int) for path in (entry.path, again.path))
        if first.shape == second.shape and (first == second).all():
            told = f'<div class="status same">{say(request, "gallery.same")}</div>'
            return {parts.made: told, parts.change: gr.Image(None, visible=False)}
        why = [f"{name}: {old} → {new}" for name, old, new in compared(entry.record, again.record) if old != new]
        reasons = html.escape("; ".join(why)) or say(request, "gallery.no_reason")
        told = f'<div class="status failed">{say(request, "gallery.changed", why=reasons)}</div>'
        if first.shape != second.shape:
            return {parts.made: told, parts.change: gr.Image(None, visible=False)}
        heat = np.clip(abs(first - second) * GAIN, 0, 255).astype(np.uint8)
        return {parts.made: told, parts.change: gr.Image(Image.fromarray(heat), visible=True)}

    def use_settings(number, request: gr.Request):
        record = open_(number, request).record
        return filled(studio, generate, record, request) | {tabs: gr.Tabs(selected="generate")}

    def to_image(number, request: gr.Request):
        path = str(open_(number, request).path)
        return path, gr.Accordion(open=True), gr.Tabs(selected="generate")

    def to_compare(number, request: gr.Request):
        entry, compare = open_(number, request), parts_of["compare"]
        made = request_of(entry.record)
        there = {tabs: gr.Tabs(selected="compare")}
        if not isinstance(made, GenerateRequest):
            return there | {compare.what: "reconstruct", compare.image: str(entry.path)}
        words = {compare.what: "generate", compare.prompt: made.prompt, compare.seed: made.seed}
        return there | words | filled(studio, generate, entry.record, request)

    def to_reconstruct(number, request: gr.Request):
        return str(open_(number, request).path), gr.Tabs(selected="reconstruct")

    for part in asked:
        (part.submit if part is parts.words else part.input)(guard(from_first), asked, shown, **QUIET)
    parts.tab.select(guard(from_first), asked, shown, **QUIET)
    parts.newer.click(guard(turn(-1)), [parts.page, *asked], shown, **QUIET)
    parts.older.click(guard(turn(1)), [parts.page, *asked], shown, **QUIET)
    parts.take_in.upload(guard(take_in), [parts.take_in, *asked], shown, **QUIET)
    seen = [
        parts.chosen, parts.one, parts.picture, parts.details, parts.put, parts.made, parts.change,
        parts.verbs["star"],
    ]  # fmt: skip
    parts.grid.select(guard(choose), parts.entries, seen, **QUIET)
    parts.verbs["star"].click(guard(star), parts.chosen, seen, **QUIET)
    parts.put.submit(guard(put), [parts.chosen, parts.put], None, **QUIET)
    parts.verbs["pick"].click(guard(pick), [parts.chosen, parts.picked], [parts.picked, parts.basket], **QUIET)
    parts.verbs["delete"].click(
        guard(delete), [parts.chosen, parts.picked, parts.page, *asked],
        [*shown, parts.chosen, parts.one, parts.gone, parts.picked, parts.basket, parts.undo], **QUIET,
    )  # fmt: skip
    parts.undo.click(guard(undo), [parts.gone, parts.page, *asked], [*shown, parts.gone, parts.undo], **QUIET)
    parts.verbs["remake"].click(
        guard(remake), parts.chosen, [parts.made, parts.change], concurrency_limit=None, **QUIET
    )
    parts.side_by_side.click(guard(side_by_side), parts.picked, [parts.pair, parts.table], **QUIET)
    parts.unpick.click(
        lambda: ([], "", gr.Gallery(visible=False), ""), None, [parts.picked, parts.basket, parts.pair, parts.table],
        **QUIET,
    )  # fmt: skip
    parts.pack.click(guard(pack), [parts.picked, *asked], parts.packed, **QUIET)
    parts.sends["use_settings"].click(guard(use_settings), parts.chosen, [*generate.asked.values(), tabs], **QUIET)
    compare = parts_of["compare"]
    parts.sends["to_compare"].click(
        guard(to_compare), parts.chosen,
        [*generate.asked.values(), compare.what, compare.prompt, compare.seed, compare.image, tabs], **QUIET,
    )  # fmt: skip
    parts.sends["to_image"].click(guard(to_image), parts.chosen, [generate.image, generate.from_picture, tabs], **QUIET)
    parts.sends["to_reconstruct"].click(
        guard(to_reconstruct), parts.chosen, [parts_of["reconstruct"].image, tabs], **QUIET
    )


def _caption(entry):
    words = entry.prompt if len(entry.prompt) < 24 else entry.prompt[:23] + "…"
    return ("★ " if entry.starred else "") + words


def _basket(picked, request):
    words = say(request, "gallery.picked", count=len(picked)) if picked else ""
    return f'<div class="status">{words}</div>'


def _facts(entry, request):
    # what a picture was made from, as HTML
    with contextlib.suppress(BadRequest):  # of another version: the picture is shown all the same
        made = request_of(entry.record)
        rows = [
            (say(request, item.name), getattr(made, item.name))
            for item in dataclasses.fields(made)
            if item.name in ALWAYS or (item.name not in ELSEWHERE and getattr(made, item.name) != item.default)
        ]
        cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows)
        when = datetime.datetime.fromtimestamp(entry.created).strftime("%Y-%m-%d %H:%M")
        words = html.escape(entry.prompt or say(request, "without_words"))
        if entry.made_from:
            steps = [(say(request, step["request"]["task"]), step["request"].get("model")) for step in entry.made_from]
            told = " → ".join(f"{task} ({model})" if model else task for task, model in steps)
            cells += f"<dt>{say(request, 'gallery.made_from')}</dt><dd>{html.escape(told)}</dd>"
        return f'<div class="details"><b>{words}</b><span>{when}</span></div><dl class="facts">{cells}</dl>'
    return ""


def _table(rows, request):
    # two records side by side; what differs is marked
    body = "".join(
        f'<tr class="{"differs" if one != other else ""}"><th scope="row">{html.escape(name)}</th>'
        f"<td>{html.escape(str(one))}</td><td>{html.escape(str(other))}</td></tr>"
        for name, one, other in rows
    )
    return f'<table class="pair">{body}</table>'
