"""The Restore tab: an old picture led step by step from its damage to a clean print."""

from types import SimpleNamespace

import gradio as gr
import numpy as np
from PIL import Image

from engines import masks
from engines.catalog import find as find_model
from engines.errors import BadRequest
from engines.requests import AdjustRequest, InpaintRequest, restoring
from engines.tasks.adjust import adjust
from studio import images
from studio.jobs import FINAL
from studio.mask_painter import MaskPainter
from studio.tabs.common import (
    QUIET,
    Latest,
    before_after,
    cleaning_controls,
    guard,
    kept,
    model_control,
    remembered,
    standing,
    status,
    upload,
)
from studio.tabs.easel import Easel
from studio.texts import say, t

STEPS = ("picture", "find", "mask", "paint", "colours", "save")
LOOK = 1024  # pixels of the longer side of what is shown
MARK = (236, 0, 200)  # rare in photographs, as in the painter


def draw(studio):
    """Draw the tab; returns its parts."""

    def step(name):
        return gr.Step(t(f"restore.{name}"), id=STEPS.index(name))

    def button(key, name, **options):
        return gr.Button(t(key), elem_id=f"restore-{name}", **options)

    main = {"variant": "primary"}
    with gr.Column(elem_id="restore-page"), gr.Walkthrough(selected=0, elem_id="restore-steps") as steps:
        with step("picture"):
            gr.Markdown(t("restore.picture.help"), elem_classes="hint")
            image = upload("restore", 320)
            onwards = button("restore.next", "onwards", visible=False, **main)
        with step("find"):
            gr.Markdown(t("restore.find.help"), elem_classes="hint")
            strength = gr.Slider(
                0, 1, 0.5, step=0.05, label=t("scratches.strength"), buttons=[], elem_id="restore-sensitivity"
            )
            found = gr.Image(
                show_label=False, format="png", interactive=False, elem_id="restore-found", elem_classes="stage",
                buttons=["fullscreen"], height=480,
            )  # fmt: skip
            share = gr.HTML(elem_id="restore-share")
            with gr.Row(elem_classes="actions"):
                use, by_hand = button("restore.use", "use", **main), button("restore.by_hand", "by-hand")
        with step("mask"):
            gr.Markdown(t("restore.mask.help"), elem_classes="hint")
            painter = MaskPainter(elem_id="restore-painter")
            with gr.Row(elem_classes="actions"):
                masked = button("restore.next", "masked", **main)
        with step("paint"):
            gr.Markdown(t("restore.paint.help"), elem_classes="hint")
            model = model_control(studio.home, "inpaint", "paints.help", tab="restore")
            with gr.Row(elem_classes="actions"):
                run = button("restore.paint", "run", **main)
                stop = button("stop", "stop", interactive=False)
                painted = button("restore.next", "painted")
            line = gr.HTML(elem_id="restore-status", elem_classes="line")
            repaired = before_after("restore-repaired")
        with step("colours"):
            gr.Markdown(t("restore.colours.help"), elem_classes="hint")
            shares = cleaning_controls(AdjustRequest, "restore", 4)
            look = before_after("restore-look")
            with gr.Row(elem_classes="actions"):
                save = button("restore.save", "save", **main)
        with step("save"):
            end = gr.HTML(elem_id="restore-end", elem_classes="line")
            result = before_after("restore-result")
            with gr.Row(elem_classes="actions"):
                download = gr.DownloadButton(t("download"), variant="primary", elem_id="restore-download")
                another = button("restore.another", "another")
    return SimpleNamespace(
        steps=steps, image=image, onwards=onwards, strength=strength, found=found, share=share, use=use,
        by_hand=by_hand, painter=painter, masked=masked, model=model, run=run, stop=stop, painted=painted, line=line,
        repaired=repaired, shares=shares, look=look, save=save, end=end, result=result, download=download,
        another=another,
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab."""
    easel, inputs = Easel(studio.inputs, parts.painter), studio.inputs
    # Outside of the tab: a browser reads what it remembers only where it is drawn, and a tab is drawn when visited.
    key = gr.BrowserState("", storage_key="atelier-restore", secret="atelier")
    job = gr.BrowserState("", storage_key="atelier-restore-job", secret="atelier")
    repair = gr.BrowserState("", storage_key="atelier-restore-repair", secret="atelier")  # the last that was finished
    place = gr.BrowserState(0, storage_key="atelier-restore-step", secret="atelier")
    latest = QUIET | {"trigger_mode": "always_last"}
    followed = Latest()

    def to(name):
        number = STEPS.index(name)
        return {parts.steps: gr.Walkthrough(selected=number), place: number}

    def source(name, request):
        if not inputs.has(name):
            raise BadRequest(say(request, "no_picture"))
        return inputs.picture(name)

    def repaired(done, name, request):
        # the path of the picture as far as it is repaired
        state = remembered(studio, done)
        return state.entries[0].path if state and state.entries else source(name, request)

    # ------------------------------------------------------------ picture, damage, mask

    def begun(name, request):
        # a picture on its first step: nothing of the one before is left, nor does its job write here any more
        followed[request.session_hash] = None
        return {
            key: name, job: "", repair: "", parts.line: "", parts.repaired: None, parts.look: None,
            parts.run: gr.Button(interactive=True), parts.stop: gr.Button(interactive=False),
            parts.painted: gr.Button(interactive=True), parts.onwards: gr.Button(visible=bool(name)),
        }  # fmt: skip

    def choose(path, strength, request: gr.Request):
        if not path:
            return begun("", request) | {parts.found: None, parts.share: "", parts.painter: None}
        name = kept(inputs, path, request)
        return begun(name, request) | find(name, strength, request) | to("find")

    def find(name, strength, request: gr.Request):
        picture = images.read_picture(source(name, request))
        mask = masks.scratches(np.asarray(picture), strength)
        return {
            parts.found: _marked(picture, mask),
            parts.share: f'<div class="status">{say(request, "restore.share", share=mask.mean())}</div>',
        }

    def onwards(name, strength, request: gr.Request):
        return find(name, strength, request) | to("find")

    def use(name, strength, request: gr.Request):
        # in the place of the mask: in the painter that can be taken back
        found = masks.scratches(np.asarray(images.read_picture(source(name, request))), strength)
        inputs.keep_mask(name, masks.to_png(found))
        return by_hand(name, request)

    def by_hand(name, request: gr.Request):
        source(name, request)
        return {parts.painter: easel.shown(name)} | to("mask")

    def masked(value, request: gr.Request):
        easel.kept(value, request)
        return to("paint")

    # ------------------------------------------------------------ repair

    def submit(name, model, request: gr.Request):
        source(name, request)
        row = find_model(model, "inpaint", studio.home, paths=False)
        settings = restoring(row.family) | inputs.given(name)
        return studio.jobs.submit(InpaintRequest(model=row.id, area="parts", **settings))

    def follow(job, name, request: gr.Request):
        followed[request.session_hash] = job
        for state in studio.jobs.watch(job):
            if followed.get(request.session_hash) != job:
                return
            over = state.state in FINAL
            update = standing(state, request, parts.line, parts.run, parts.stop)
            update[parts.painted] = gr.Button(interactive=over)
            if over and state.entries:
                update |= {repair: job, parts.repaired: (str(inputs.picture(name)), str(state.entries[0].path))}
                if state.result is not None:
                    told = say(request, "inpaint.changed", count=state.result.changed)
                    update[parts.line] += f'<div class="status">{told}</div>'
            yield update

    # ------------------------------------------------------------ colours, end

    def cleaned(done, name, request: gr.Request, *shares):
        path, given = repaired(done, name, request), dict(zip(parts.shares, shares, strict=True))
        clean = adjust(AdjustRequest(image=path.read_bytes(), **given)).pictures[0].image
        clean.thumbnail((LOOK, LOOK), Image.Resampling.LANCZOS)
        return {parts.look: (images.look(path, LOOK), clean)}

    def on_to_colours(done, name, request: gr.Request, *shares):
        return cleaned(done, name, request, *shares) | to("colours")

    def save(done, name, request: gr.Request, *shares):
        path, before = repaired(done, name, request), source(name, request)
        if not any(shares) and path == before:
            raise BadRequest(say(request, "restore.nothing"))
        yield to("save") | {parts.save: gr.Button(interactive=False), parts.result: None}
        line = f'<div class="status done">{say(request, "restore.saved")}</div>'
        if any(shares):
            given = dict(zip(parts.shares, shares, strict=True))
            for state in studio.jobs.watch(studio.jobs.submit(AdjustRequest(image=images.full_bytes(path), **given))):
                if state.state not in FINAL:
                    yield {parts.end: status(state, request)}
            if state.state != "done":
                yield {parts.end: status(state, request), parts.save: gr.Button(interactive=True)}
                return
            path = state.entries[0].path
        yield {
            parts.save: gr.Button(interactive=True),
            parts.end: line,
            parts.result: (str(before), str(path)),
            parts.download: gr.DownloadButton(value=str(path)),
        }

    def another(request: gr.Request):
        return begun("", request) | {parts.image: None, parts.painter: None} | to("picture")

    def opened(name, number, done, strength, request: gr.Request, *shares):
        # where the artist was; the last step is made from the one before it
        if not inputs.has(name):
            return gr.skip()
        step = STEPS[min(number, STEPS.index("colours"))]
        shown = {parts.onwards: gr.Button(visible=True), parts.painter: easel.shown(name)} | to(step)
        if step == "find":
            shown |= find(name, strength, request)
        if step == "colours":
            shown |= cleaned(done, name, request, *shares)
        return shown

    def follow_remembered(job, name, request: gr.Request):
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield gr.skip()
        if inputs.has(name) and remembered(studio, job):
            yield from follow(job, name, request)

    steps, shares = [parts.steps, place], list(parts.shares.values())
    fresh = [
        key, job, repair, parts.line, parts.repaired, parts.look, parts.run, parts.stop, parts.painted, parts.onwards,
        parts.painter, *steps,
    ]  # fmt: skip
    marks = [parts.found, parts.share]
    follower = {
        "inputs": [job, key],
        "outputs": [parts.line, parts.run, parts.stop, parts.painted, parts.repaired, repair],
        "concurrency_limit": None, **QUIET,
    }  # fmt: skip
    parts.image.input(guard(choose), [parts.image, parts.strength], [*fresh, *marks], **QUIET)
    parts.onwards.click(guard(onwards), [key, parts.strength], [*marks, *steps], **QUIET)
    parts.strength.release(guard(find), [key, parts.strength], marks, **latest)
    parts.use.click(guard(use), [key, parts.strength], [parts.painter, *steps], **easel.IN_ORDER)
    parts.by_hand.click(guard(by_hand), key, [parts.painter, *steps], **QUIET)
    easel.wire()
    parts.masked.click(guard(masked), parts.painter, steps, js=easel.saved, **easel.IN_ORDER)
    asking = parts.run.click(guard(submit), [key, parts.model], job, **QUIET)
    asking.success(guard(follow), trigger_mode="multiple", **follower)
    demo.load(guard(follow_remembered), **follower)
    parts.stop.click(guard(lambda job: studio.jobs.stop(job)), job, None, api_visibility="private")
    parts.painted.click(guard(on_to_colours), [repair, key, *shares], [parts.look, *steps], **QUIET)
    for slider in shares:
        slider.change(guard(cleaned), [repair, key, *shares], parts.look, **latest)
    parts.save.click(
        guard(save), [repair, key, *shares], [parts.end, parts.save, parts.result, parts.download, *steps],
        concurrency_limit=None, **QUIET,
    )  # fmt: skip
    parts.another.click(guard(another), None, [parts.image, *fresh], **QUIET)
    demo.load(
        guard(opened), [key, place, repair, parts.strength, *shares],
        [parts.onwards, parts.painter, parts.look, *marks, *steps], **QUIET,
    )  # fmt: skip


def _marked(picture, mask):
    # the picture at a size to look at, with what is found in a colour that stands out
    scale = min(1, LOOK / max(picture.size))
    size = [max(1, round(side * scale)) for side in picture.size]
    seen = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32)
    # thin as it is, not a pixel of it may be lost
    step = int(np.ceil(1 / scale))
    marks = masks.grow(mask, step // 2) if step > 1 else mask
    marks = np.asarray(Image.fromarray(marks).resize(size, Image.Resampling.NEAREST))[..., None]
    return Image.fromarray(np.where(marks > 0, MARK, seen).astype(np.uint8))
