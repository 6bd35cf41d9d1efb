"""The Inpaint tab: paint a mask, restore what is under it, change nothing else."""

import re
from types import SimpleNamespace

import gradio as gr
import numpy as np

from engines import masks
from engines.catalog import catalog, find
from engines.errors import BadRequest
from engines.requests import SETTINGS, InpaintRequest, LocateRequest, refitted, suited, wordless
from studio import images, wildcards
from studio.jobs import FINAL
from studio.mask_painter import MaskPainter
from studio.tabs.common import (
    QUIET,
    Latest,
    autoencoder_control,
    before_after,
    chosen_entry,
    control,
    guard,
    kept,
    model_control,
    named,
    remembered,
    status,
    style_control,
    upload,
    wire_autoencoder,
)
from studio.tabs.easel import Easel
from studio.texts import say, t

STEPS = 8  # pixels by which a mask grows or shrinks unless another number is asked for
LOOK = 512  # pixels of the longer side of a picture in which words are looked for
REACH = 60  # of colours, in CIE76, at the highest sensitivity


def draw(studio):
    """Draw the tab; returns its parts, the fields of the request under `fields`."""
    fields, suits = {}, suited(find("", "inpaint", studio.home).family, dict.fromkeys(SETTINGS))

    def add(name, **options):
        fields[name] = control(InpaintRequest, name, "inpaint", **options)

    with gr.Row(elem_id="inpaint-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            image = upload("inpaint", 200)
            add("prompt", lines=2, max_lines=6, info=t("inpaint.prompt.help"))
            fields["style"] = style_control("inpaint")
            with gr.Row(elem_classes="actions"):
                run = gr.Button(t("inpaint.run"), variant="primary", elem_id="inpaint-run", elem_classes="run")
                stop = gr.Button(t("stop"), interactive=False, elem_id="inpaint-stop", elem_classes="halt")
            fields["model"] = model_control(studio.home, "inpaint", "paints.help")
        with gr.Column(elem_classes=["result", "always"]):
            gr.Markdown(t("inpaint.empty"), elem_id="inpaint-empty", elem_classes=["hint", "empty"])
            painter = MaskPainter(elem_id="inpaint-painter")
            with gr.Row(elem_classes=["actions", "wrapped"]):
                scratches = gr.Button(t("scratches"), size="sm", elem_id="inpaint-scratches")
                transparent = gr.Button(t("transparent"), size="sm", elem_id="inpaint-transparent")
                coloured = gr.Button(t("of_colour"), size="sm", elem_id="inpaint-of-colour")
                by_words = gr.Button(t("of_words"), size="sm", elem_id="inpaint-of-words")
                grow = gr.Button(t("mask.grow"), size="sm", elem_id="inpaint-grow")
                shrink = gr.Button(t("mask.shrink"), size="sm", elem_id="inpaint-shrink")
                read = gr.UploadButton(
                    t("mask.read"), file_types=[".png", ".jpg", ".webp"], size="sm", elem_id="inpaint-read"
                )
            with gr.Row():
                colour = gr.ColorPicker("#ffffff", label=t("colour"), info=t("colour.help"), elem_id="inpaint-colour")
                strength = gr.Slider(
                    0, 1, 0.5, step=0.05, label=t("scratches.strength"), info=t("scratches.help"), buttons=[],
                    elem_id="inpaint-sensitivity",
                )  # fmt: skip
                pixels = gr.Slider(
                    1, 64, STEPS, step=1, label=t("mask.pixels"), info=t("mask.pixels.help"), buttons=[],
                    elem_id="inpaint-pixels",
                )  # fmt: skip
            line = gr.HTML(elem_id="inpaint-status", elem_classes="line")
            preview = gr.Image(
                show_label=False, format="png", visible=False, interactive=False, elem_id="inpaint-preview",
                elem_classes=["stage", "map"], buttons=[],
            )  # fmt: skip
            with gr.Column(visible=False) as made:
                slider = before_after("inpaint-slider")
                gr.Markdown(t("inpaint.before_after"), elem_classes="hint")
                proposals = gr.Gallery(
                    show_label=False, format="png", columns=4, object_fit="contain", interactive=False,
                    elem_id="inpaint-gallery", elem_classes="stage", height="auto", buttons=["fullscreen"],
                )  # fmt: skip
                with gr.Row(elem_classes="actions"):
                    accept = gr.Button(t("inpaint.accept"), size="sm", variant="primary", elem_id="inpaint-accept")
                    download = gr.DownloadButton(t("download"), size="sm", elem_id="inpaint-download")
        with gr.Column(elem_classes="settings"):
            with gr.Accordion(t("settings"), open=True):
                with gr.Row():
                    add("count")
                    add("steps", value=suits["steps"])
                with gr.Row():
                    add("cfg_scale", value=suits["cfg_scale"])
                    add("strength")
                with gr.Row():
                    add("seed")
                    add("feather")
                add("begin")
                add("area")
                add("margin")
                add("match")
                add("negative")
            with gr.Accordion(t("new_space"), open=False):
                gr.Markdown(t("new_space.help"), elem_classes="hint")
                for pair in (("left", "right"), ("top", "bottom")):
                    with gr.Row():
                        for name in pair:
                            add(name)
            with gr.Accordion(t("of_diffusion"), open=False):
                for name in ("sampler", "scheduler", "jumps", "cfg_rescale", "cfg_start", "cfg_end"):
                    add(name)
                fields["vae"] = autoencoder_control(studio.home, "inpaint", fields["model"].value)
            with gr.Accordion(t("tokens_more"), open=False):
                for name in ("order", "temperature", "top_k", "top_p", "corrections"):
                    add(name)
    return SimpleNamespace(
        fields=fields, image=image, run=run, stop=stop, painter=painter, scratches=scratches, transparent=transparent,
        coloured=coloured, by_words=by_words, colour=colour, grow=grow, shrink=shrink, read=read, strength=strength,
        pixels=pixels, line=line, preview=preview, made=made, slider=slider, proposals=proposals, accept=accept,
        download=download, entries=gr.State([]), chosen=gr.State(0), before=gr.State(None),
        places=gr.State(None),
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab, and the buttons of other tabs that send a picture here."""
    easel, inputs = Easel(studio.inputs, parts.painter), studio.inputs
    # Outside of the tab: a browser reads what it remembers only where it is drawn, and a tab is drawn when visited.
    parts.key = key = gr.BrowserState("", storage_key="atelier-inpaint", secret="atelier")
    job = gr.BrowserState("", storage_key="atelier-inpaint-job", secret="atelier")
    in_order = easel.IN_ORDER
    followed = Latest()
    results = [
        parts.preview, parts.made, parts.slider, parts.proposals, parts.download, parts.entries, parts.chosen,
        parts.before,
    ]  # fmt: skip

    def take_up(source, request):
        name = kept(inputs, source, request)
        return {key: name, parts.made: gr.Column(visible=False), parts.painter: easel.shown(name)}

    def choose(path, request: gr.Request):
        if not path:
            return {key: "", parts.painter: None, parts.made: gr.Column(visible=False)}
        return take_up(path, request)

    def opened(name):
        return easel.shown(name) if inputs.has(name) else gr.skip()

    def read(path, value, request: gr.Request):
        name = easel.kept(value, request)
        inputs.keep_mask(name, images.full_bytes(path))
        return easel.shown(name)

    fields, settings = list(parts.fields.values()), [parts.fields[name] for name in SETTINGS]

    def suggest(model, *values):
        row = catalog(studio.home).get(model)
        return list(refitted(row.family, dict(zip(SETTINGS, values, strict=True))).values()) if row else values

    def submit(request: gr.Request, value, *values):
        given = named(parts.fields, dict(zip(fields, values, strict=True)))
        return studio.jobs.submit(requested(studio, easel.kept(value, request), given, request))

    def follow(job, name, request: gr.Request):
        followed[request.session_hash] = job
        drawn = 0
        for state in studio.jobs.watch(job):
            if followed.get(request.session_hash) != job:
                return
            over = state.state in FINAL
            update = {parts.line: status(state, request), parts.stop: gr.Button(interactive=not over)}
            if state.progress and state.progress.preview:
                update[parts.preview] = gr.Image(state.progress.preview, visible=True)
            if over:
                update[parts.preview] = gr.Image(None, visible=False)
            if len(state.entries) > drawn:
                drawn = len(state.entries)
                update |= show(state.entries, name, 0)
            if over and state.result is not None:
                told = say(request, "inpaint.changed", count=state.result.changed)
                update[parts.line] += f'<div class="status">{told}</div>'
            yield update

    def show(entries, name, index):
        paths = [str(entry.path) for entry in entries]
        before = str(inputs.picture(name)) if inputs.has(name) else paths[index]
        return {
            parts.made: gr.Column(visible=True),
            parts.slider: (before, paths[index]),
            parts.proposals: gr.Gallery([(path, None) for path in paths], visible=len(paths) > 1, selected_index=None),
            parts.download: gr.DownloadButton(value=paths[index]),
            parts.entries: [entry.id for entry in entries],
            parts.chosen: index,
            parts.before: before,
        }

    def follow_remembered(job, name, request: gr.Request):
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield gr.skip()
        state = remembered(studio, job)
        if state and inputs.key(studio.jobs.request(job).image) == name:
            yield from follow(job, name, request)

    def pick(entries, before, event: gr.SelectData, request: gr.Request):
        path = str(chosen_entry(studio, entries, event.index, request).path)
        return {
            parts.chosen: event.index,
            parts.slider: (before or path, path),
            parts.download: gr.DownloadButton(value=path),
        }

    def accept(entries, index, request: gr.Request):
        return take_up(str(chosen_entry(studio, entries, index, request).path), request)

    def send(entries, index, request: gr.Request):
        return accept(entries, index, request) | {tabs: gr.Tabs(selected="inpaint")}

    def send_from_gallery(number, request: gr.Request):
        return send([number], 0, request)

    taken, generate, gallery = [key, parts.made, parts.painter], parts_of["generate"], parts_of["gallery"]
    generate.to_inpaint.click(guard(send), [generate.entries, generate.chosen], [*taken, tabs], **QUIET)
    gallery.sends["to_inpaint"].click(guard(send_from_gallery), gallery.chosen, [*taken, tabs], **QUIET)
    parts.image.input(guard(choose), parts.image, taken, **QUIET)
    demo.load(guard(opened), key, parts.painter, **QUIET)
    easel.wire()
    wire_autoencoder(studio, parts.fields, parts_of["models"].rescan)
    parts.fields["model"].input(guard(suggest), [parts.fields["model"], *settings], settings, **QUIET)
    for button, amounts, change in (
        (parts.scratches, [parts.strength], lambda seen, share: masks.scratches(seen[..., :3], share)),
        (parts.transparent, [], lambda seen: masks.transparent(seen[..., 3])),
        (parts.coloured, [parts.colour, parts.strength],
         lambda seen, colour, share: masks.of_colour(seen[..., :3], _rgb(colour), REACH * share)),
    ):  # fmt: skip
        button.click(
            easel.reshaped(_added(change)), [parts.painter, *amounts], parts.painter, js=easel.saved, **in_order
        )
    def locate(name, words, model, request: gr.Request):
        # it waits for the picture at work, so no stroke may have to wait for it
        if not inputs.has(name):
            raise BadRequest(say(request, "inpaint.no_picture"))
        picture = images.look(inputs.picture(name), LOOK).convert("RGB")
        able = {row.id for row in catalog(studio.home).values() if "locate" in row.tasks}
        asked = LocateRequest(model=model if model in able else "", image=images.png_bytes(picture), prompt=words)
        return studio.jobs.aside(asked).places

    parts.by_words.click(
        guard(locate), [key, parts.fields["prompt"], parts.fields["model"]], parts.places, **QUIET
    ).success(
        easel.reshaped(_added(lambda seen, places, share: masks.from_places(places, 1 - share, seen.shape[:2]))),
        [parts.painter, parts.places, parts.strength], parts.painter, js=easel.saved, **in_order,
    )  # fmt: skip
    for button, sign in ((parts.grow, 1), (parts.shrink, -1)):
        button.click(
            easel.reshaped(lambda seen, mask, pixels, sign=sign: masks.grow(mask, sign * int(pixels))),
            [parts.painter, parts.pixels], parts.painter, js=easel.saved, **in_order,
        )  # fmt: skip
    parts.read.upload(guard(read), [parts.read, parts.painter], parts.painter, **in_order)
    follower = {"inputs": [job, key], "outputs": [parts.line, parts.stop, *results], "concurrency_limit": None, **QUIET}
    asking = parts.run.click(guard(submit), [parts.painter, *fields], job, js=easel.saved, **in_order)
    asking.success(guard(follow), trigger_mode="multiple", **follower)
    demo.load(guard(follow_remembered), **follower)
    parts.stop.click(guard(lambda job: studio.jobs.stop(job)), job, None, api_visibility="private")
    parts.proposals.select(
        guard(pick), [parts.entries, parts.before], [parts.chosen, parts.slider, parts.download], **QUIET
    )
    parts.accept.click(guard(accept), [parts.entries, parts.chosen], taken, **QUIET)


def requested(studio, key, given, request):
    """The `InpaintRequest` of the picture of that key, its mask, and what the form holds, by the names of its fields.

    Raises `BadRequest` where there is no picture.
    """
    if not studio.inputs.has(key):
        raise BadRequest(say(request, "inpaint.no_picture"))
    given = dict(given) | {"prompt": wildcards.fill(given["prompt"], studio.home)} | studio.inputs.given(key)
    if wordless(given["prompt"], given["style"]):  # the picture around decides, as the line below the words says
        given["cfg_scale"] = 1.0
    return InpaintRequest(**given)


def _added(propose):
    # what is proposed, beside what is painted already
    return lambda seen, mask, *amounts: np.maximum(mask, propose(seen, *amounts))


def _rgb(text):
    # a colour as pickers of colours give it: #rrggbb, or rgba(r, g, b, a) with parts of numbers
    found = re.findall(r"\d+(?:\.\d+)?", text) if "(" in text else [int(text[i : i + 2], 16) for i in (1, 3, 5)]
    return tuple(round(float(part)) for part in found[:3])
