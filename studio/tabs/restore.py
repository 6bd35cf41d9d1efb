"""The Restore tab: an old picture led step by step from its damage to a clean print."""

from types import SimpleNamespace

import gradio as gr
import numpy as np
from PIL import Image

from engines import colours, masks
from engines.catalog import catalog
from engines.errors import BadRequest
from engines.requests import SUITED, AdjustRequest, InpaintRequest
from studio import images
from studio.jobs import FINAL
from studio.mask_painter import MaskPainter
from studio.tabs.common import Latest, Upload, control, guard, model_control, remembered, standing
from studio.tabs.easel import Easel
from studio.texts import say, t

STEPS = ("picture", "find", "mask", "paint", "colours", "save")
LOOK = 1024  # pixels of the longer side of what is shown while a slider moves
MARK = (236, 0, 200)  # rare in photographs, as in the painter


def draw(studio):
    """Draw the tab; returns its parts."""

    def step(name):
        return gr.Step(t(f"restore.{name}"), id=STEPS.index(name))

    def before_after(name):
        return gr.ImageSlider(
            show_label=False, format="png", interactive=False, elem_id=f"restore-{name}", elem_classes="stage",
            max_height=560,
        )  # fmt: skip

    def button(key, name, **options):
        return gr.Button(t(key), elem_id=f"restore-{name}", **options)

    main = {"variant": "primary"}
    with gr.Column(elem_id="restore-page"), gr.Walkthrough(selected=0, elem_id="restore-steps") as steps:
        with step("picture"):
            gr.Markdown(t("restore.picture.help"), elem_classes="hint")
            image = Upload(
                type="filepath", format="png", image_mode=None, sources=["upload", "clipboard"], label=t("picture"),
                elem_id="restore-image", elem_classes="upload", height=320,
            )  # fmt: skip
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
            repaired = before_after("repaired")
        with step("colours"):
            gr.Markdown(t("restore.colours.help"), elem_classes="hint")
            with gr.Row():
                shares = {name: control(AdjustRequest, name, "restore") for name in ("balance", "fading", "levels")}
            look = before_after("look")
            with gr.Row(elem_classes="actions"):
                save = button("restore.save", "save", **main)
        with step("save"):
            end = gr.HTML(elem_id="restore-end", elem_classes="line")
            result = before_after("result")
            with gr.Row(elem_classes="actions"):
                download = gr.DownloadButton(t("download"), variant="primary", elem_id="restore-download")
                another = button("restore.another", "another")
    return SimpleNamespace(
        steps=steps, image=image, strength=strength, found=found, share=share, use=use, by_hand=by_hand,
        painter=painter, masked=masked, model=model, run=run, stop=stop, painted=painted, line=line,
        repaired=repaired, shares=shares, look=look, save=save, end=end, result=result, download=download,
        another=another,
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab."""
    easel, inputs = Easel(studio.inputs, parts.painter), studio.inputs
    # Outside of the tab: a browser reads what it remembers only where it is drawn, and a tab is drawn when visited.
    key = gr.BrowserState("", storage_key="atelier-restore", secret="atelier")
    job = gr.BrowserState("", storage_key="atelier-restore-job", secret="atelier")
    place = gr.BrowserState(0, storage_key="atelier-restore-step", secret="atelier")
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    followed = Latest()

    def to(name):
        number = STEPS.index(name)
        return {parts.steps: gr.Walkthrough(selected=number), place: number}

    def source(name, request):
        if not inputs.has(name):
            raise BadRequest(say(request, "no_picture"))
        return inputs.picture(name)

    def repaired(job, name, request):
        # the path of the picture as far as it is repaired
        state = remembered(studio, job)
        if state and state.entries and inputs.key(studio.jobs.request(job).image) == name:
            return state.entries[0].path
        return source(name, request)

    # ------------------------------------------------------------ picture, damage, mask

    def choose(path, strength, request: gr.Request):
        if not path:
            return {key: "", parts.found: None, parts.share: ""}
        name = inputs.keep(path)
        return {key: name, job: "", parts.repaired: None, parts.line: ""} | find(name, strength, request) | to("find")

    def find(name, strength, request: gr.Request):
        picture = images.read_picture(source(name, request))
        mask = masks.scratches(np.asarray(picture), strength)
        return {
            parts.found: _marked(picture, mask),
            parts.share: f'<div class="status">{say(request, "restore.share", share=mask.mean())}</div>',
        }

    def use(name, strength, request: gr.Request):
        mask = masks.scratches(np.asarray(images.read_picture(source(name, request))), strength)
        inputs.keep_mask(name, masks.to_png(mask))
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
        family = catalog(studio.home)[model].family
        suited = SUITED.get(family, {}) | {"cfg_scale": 1.0}  # the picture around decides
        return studio.jobs.submit(InpaintRequest(model=model, area="parts", **suited, **inputs.given(name)))

    def follow(job, name, request: gr.Request):
        followed[request.session_hash] = job
        for state in studio.jobs.watch(job):
            if followed.get(request.session_hash) != job:
                return
            update = standing(state, request, parts.line, parts.run, parts.stop)
            if state.entries and state.state in FINAL:
                update[parts.repaired] = str(inputs.picture(name)), str(state.entries[0].path)
                if state.result is not None:
                    told = say(request, "inpaint.changed", count=state.result.changed)
                    update[parts.line] += f'<div class="status">{told}</div>'
            yield update

    # ------------------------------------------------------------ colours, end

    def cleaned(job, name, request: gr.Request, *shares):
        picture = images.read_picture(repaired(job, name, request))
        picture.thumbnail((LOOK, LOOK), Image.Resampling.LANCZOS)
        given = dict(zip(parts.shares, shares, strict=True))
        return {parts.look: (picture, Image.fromarray(colours.cleaned(np.asarray(picture), **given)))}

    def on_to_colours(job, name, request: gr.Request, *shares):
        return cleaned(job, name, request, *shares) | to("colours")

    def save(job, name, request: gr.Request, *shares):
        path = repaired(job, name, request)
        before, said = str(source(name, request)), ""
        if any(shares):
            given = dict(zip(parts.shares, shares, strict=True))
            asked = AdjustRequest(image=images.full_bytes(path), **given)
            for state in studio.jobs.watch(studio.jobs.submit(asked)):
                if state.state not in FINAL:
                    yield to("save") | standing(state, request, parts.end, parts.save, parts.stop)
            if state.state != "done":
                raise BadRequest(state.error or say(request, "cancelled"))
            path = state.entries[0].path
        elif str(path) == before:
            raise BadRequest(say(request, "restore.nothing"))
        said = say(request, "restore.saved")
        yield to("save") | {
            parts.save: gr.Button(interactive=True),
            parts.end: f'<div class="status done">{said}</div>',
            parts.result: (before, str(path)),
            parts.download: gr.DownloadButton(value=str(path)),
        }

    def another():
        return {parts.image: None, key: "", job: ""} | to("picture")

    def opened(name, number, job, strength, request: gr.Request, *shares):
        # where the artist was; the last step is shown by what it needs alone
        yield gr.skip()
        if not inputs.has(name):
            return
        number = min(number, STEPS.index("colours"))
        shown = {parts.steps: gr.Walkthrough(selected=number), parts.painter: easel.shown(name)}
        yield shown | find(name, strength, request) | cleaned(job, name, request, *shares)
        if remembered(studio, job):
            yield from follow(job, name, request)

    steps, shares = [parts.steps, place], list(parts.shares.values())
    follower = {
        "inputs": [job, key], "outputs": [parts.line, parts.run, parts.stop, parts.repaired],
        "concurrency_limit": None, **quiet,
    }  # fmt: skip
    parts.image.input(
        guard(choose), [parts.image, parts.strength],
        [key, job, parts.repaired, parts.line, parts.found, parts.share, *steps], **quiet,
    )  # fmt: skip
    parts.strength.release(guard(find), [key, parts.strength], [parts.found, parts.share], **quiet)
    parts.use.click(guard(use), [key, parts.strength], [parts.painter, *steps], **easel.IN_ORDER)
    parts.by_hand.click(guard(by_hand), key, [parts.painter, *steps], **quiet)
    easel.wire()
    parts.masked.click(guard(masked), parts.painter, steps, js=easel.saved, **easel.IN_ORDER)
    asking = parts.run.click(guard(submit), [key, parts.model], job, **quiet)
    asking.success(guard(follow), trigger_mode="multiple", **follower)
    parts.stop.click(guard(lambda job: studio.jobs.stop(job)), job, None, api_visibility="private")
    parts.painted.click(guard(on_to_colours), [job, key, *shares], [parts.look, *steps], **quiet)
    for slider in shares:
        slider.change(guard(cleaned), [job, key, *shares], parts.look, trigger_mode="always_last", **quiet)
    parts.save.click(
        guard(save), [job, key, *shares],
        [parts.end, parts.save, parts.stop, parts.result, parts.download, *steps], **quiet,
    )  # fmt: skip
    parts.another.click(another, None, [parts.image, key, job, *steps], **quiet)
    demo.load(
        guard(opened), [key, place, job, parts.strength, *shares],
        [parts.steps, parts.painter, parts.found, parts.share, parts.look, *follower["outputs"]], **quiet,
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
