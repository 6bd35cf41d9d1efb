"""The Upscale tab: more pixels, a look at any spot before the whole, and many files at once."""

import dataclasses
from types import SimpleNamespace

import gradio as gr
from PIL import Image

from engines import classical, pictures
from engines.catalog import catalog
from engines.errors import AtelierError, BadRequest
from engines.pictures import SUFFIXES
from engines.requests import MAX_SIDE, SpotRequest, UpscaleRequest
from studio import images
from studio.jobs import FINAL
from studio.tabs.common import (
    QUIET,
    Latest,
    before_after,
    chosen_entry,
    cleaning_controls,
    control,
    guard,
    kept,
    model_control,
    named,
    remembered,
    standing,
    upload,
)
from studio.texts import say, t

LOOK = 2048  # pixels of the longer side of what is shown of a result
SPOT = 96  # pixels a side of the source that the loupe shows
MOST = 200  # files at once
INVENTING = ("denoise", "detail", "looks", "seed")  # fields of a diffusion upscaler
TIMES = (2, 4)  # at hand


def draw(studio):
    """Draw the tab; returns its parts, the fields of the request under `fields`."""
    fields = {}

    with gr.Row(elem_id="upscale-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            image = upload("upscale", 260)
            gr.Markdown(t("upscale.spot"), elem_classes="hint")
            fields["scale"] = control(UpscaleRequest, "scale", "upscale")
            with gr.Row(elem_classes="chips"):
                times = {
                    number: gr.Button(f"×{number}", size="sm", elem_classes="chip", min_width=0) for number in TIMES
                }
            target = gr.Number(
                0, minimum=0, maximum=MAX_SIDE, precision=0, label=t("target"), info=t("target.help"),
                elem_id="upscale-target",
            )  # fmt: skip
            with gr.Row(elem_classes="actions"):
                run = gr.Button(t("upscale"), variant="primary", elem_id="upscale-run", elem_classes="run")
                stop = gr.Button(t("stop"), interactive=False, elem_id="upscale-stop", elem_classes="halt")
            forecast = gr.HTML(elem_id="upscale-forecast")
            fields["model"] = model_control(studio.home, "upscale", "upscale.model.help")
            with gr.Row(elem_classes="actions"):
                many = gr.UploadButton(
                    t("upscale.many"), file_count="multiple", file_types=list(SUFFIXES), size="sm",
                    elem_id="upscale-many",
                )  # fmt: skip
                folder = gr.UploadButton(
                    t("upscale.folder"), file_count="directory", size="sm", elem_id="upscale-folder"
                )
        with gr.Column(elem_classes=["result", "always"]):
            line = gr.HTML(elem_id="upscale-status", elem_classes="line")
            gr.Markdown(t("upscale.empty"), elem_id="upscale-empty", elem_classes=["hint", "empty"])
            with gr.Column(visible=False) as near:
                gr.Markdown(t("upscale.near"), elem_classes="hint")
                loupe = before_after("upscale-loupe")
            with gr.Column(visible=False) as made:
                gr.Markdown(t("upscale.before_after"), elem_classes="hint")
                slider = before_after("upscale-slider")
                with gr.Row(elem_classes="actions"):
                    download = gr.DownloadButton(t("download"), size="sm", elem_id="upscale-download")
        with gr.Column(elem_classes="settings"):
            with gr.Accordion(t("settings"), open=True):
                for pair in (INVENTING[:2], INVENTING[2:]):
                    with gr.Row():
                        for name in pair:
                            fields[name] = control(UpscaleRequest, name, "upscale")
                fields["tile"] = control(UpscaleRequest, "tile", "upscale")
            with gr.Accordion(t("enhance"), open=True):
                fields |= cleaning_controls(UpscaleRequest, "upscale", 2)
    return SimpleNamespace(
        fields=fields, asked=fields | {"target": target}, times=times, image=image, run=run, stop=stop,
        forecast=forecast, many=many, folder=folder, line=line,
        near=near, loupe=loupe, made=made, slider=slider, download=download, spot=gr.State(None),
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab, and the buttons of other tabs that send a picture here."""
    inputs = studio.inputs
    # Outside of the tab: a browser reads what it remembers only where it is drawn, and a tab is drawn when visited.
    parts.key = key = gr.BrowserState("", storage_key="atelier-upscale", secret="atelier")
    job = gr.BrowserState("", storage_key="atelier-upscale-job", secret="atelier")
    asked = {key, *parts.asked.values()}
    followed = Latest()

    def suit(model):
        # what a model does not have is not shown: a filter has no tiles, and only diffusion invents
        row = catalog(studio.home).get(model)
        family = row.family if row else ""
        shown = {name: family == "upscaler" for name in INVENTING} | {"tile": family != classical.Resampling.family}
        return {parts.fields[name]: gr.update(visible=visible) for name, visible in shown.items()}

    def choose(path, request: gr.Request):
        name = kept(inputs, path, request) if path else ""
        return {
            key: name, parts.spot: None, parts.near: gr.Column(visible=False), parts.made: gr.Column(visible=False),
        }  # fmt: skip

    def opened(name):
        # a picture that was chosen while the page still loaded stays
        return str(inputs.picture(name)) if inputs.has(name) else gr.skip()

    def wanted(values, request):
        return requested(studio, values[key], named(parts.asked, values), request)

    def submit(values, request: gr.Request):
        return studio.jobs.submit(wanted(values, request))

    def follow(job, request: gr.Request):
        followed[request.session_hash] = job
        for state in studio.jobs.watch(job):
            if followed.get(request.session_hash) != job:
                return
            update = standing(state, request, parts.line, parts.run, parts.stop)
            if state.entries and state.state in FINAL:
                path = state.entries[0].path
                after = images.look(path, LOOK)
                before = images.read_picture(studio.jobs.request(job).image, transparent=True)
                update |= {
                    parts.made: gr.Column(visible=True),
                    parts.slider: (before.resize(after.size, Image.Resampling.NEAREST), after),
                    parts.download: gr.DownloadButton(value=str(path)),
                }
            yield update

    def follow_remembered(job, request: gr.Request):
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield gr.skip()
        if remembered(studio, job):
            yield from follow(job, request)

    def foresee(values, request: gr.Request):
        if not inputs.has(values[key]):
            return ""
        made = wanted(values, request)
        width, height = (round(side * made.scale) for side in pictures.size_of(made.image))
        seconds, memory = studio.jobs.estimate(made)
        facts = [f"{width} × {height}"]
        facts += [say(request, "takes", seconds=seconds)] if seconds else []
        facts += [say(request, "needs", memory=memory / 2**20)] if memory else []
        return f'<div class="status forecast">{" · ".join(facts)}</div>'

    def point(event: gr.SelectData):
        return event.index

    def look(values, request: gr.Request):
        # the spot alone by the settings as they are, beside plain bicubic enlargement
        spot = values[parts.spot]
        if not spot or not inputs.has(values[key]):
            return {parts.near: gr.Column(visible=False)}
        whole = wanted(values, request)
        picture = images.read_picture(inputs.picture(values[key]))
        left, top = (
            min(max(0, round(place) - SPOT // 2), max(0, side - SPOT))
            for place, side in zip(spot, picture.size, strict=True)
        )
        given = {item.name: getattr(whole, item.name) for item in dataclasses.fields(whole)}
        (made,) = studio.jobs.aside(SpotRequest(**given, left=left, top=top, side=SPOT)).pictures
        cut = picture.crop((left, top, min(left + SPOT, picture.width), min(top + SPOT, picture.height)))
        plain = cut.resize(made.image.size, Image.Resampling.BICUBIC)
        return {parts.near: gr.Column(visible=True), parts.loupe: (plain, made.image)}

    def queue(paths, values, request):
        if len(paths) > MOST:
            raise BadRequest(say(request, "gallery.too_many", most=MOST))
        given, sent, told = named(parts.asked, values), 0, []
        for path in paths:
            try:
                studio.jobs.submit(of_picture(images.full_bytes(path), given))
                sent += 1
                told += [say(request, f"lost.{key}") for key in images.losses(path)]
            except AtelierError as error:
                told.append(str(error))
        gr.Info(" ".join([say(request, "upscale.queued", count=sent), *dict.fromkeys(told)]))

    def queue_files(values, request: gr.Request):
        queue(values[parts.many], values, request)

    def queue_folder(values, request: gr.Request):
        # what else lies beside pictures in a folder is no picture, and nobody has to be told
        queue([path for path in values[parts.folder] if path.lower().endswith(SUFFIXES)], values, request)

    def send(entries, index, request: gr.Request):
        path = str(chosen_entry(studio, entries, index, request).path)
        return {parts.image: path, tabs: gr.Tabs(selected="upscale")} | choose(path, request)

    def send_from_gallery(number, request: gr.Request):
        return send([number], 0, request)

    follower = {
        "inputs": job,
        "outputs": [parts.line, parts.run, parts.stop, parts.made, parts.slider, parts.download],
        "concurrency_limit": None, **QUIET,
    }  # fmt: skip
    asking = parts.run.click(guard(submit), asked, job, **QUIET)
    asking.success(guard(follow), trigger_mode="multiple", **follower)
    demo.load(guard(follow_remembered), **follower)
    parts.stop.click(guard(lambda job: studio.jobs.stop(job)), job, None, api_visibility="private")
    demo.load(guard(opened), key, parts.image, **QUIET)
    fresh = [key, parts.spot, parts.near, parts.made]
    parts.image.input(guard(choose), parts.image, fresh, **QUIET)
    for part in asked:
        part.change(guard(foresee), asked, parts.forecast, trigger_mode="always_last", **QUIET)
    seen = {*asked, parts.spot}
    parts.image.select(point, None, parts.spot, **QUIET)
    parts.spot.change(guard(look), seen, [parts.near, parts.loupe], trigger_mode="always_last", **QUIET)
    gr.on(
        [demo.load, parts.fields["model"].change], guard(suit), parts.fields["model"],
        [parts.fields[name] for name in (*INVENTING, "tile")], **QUIET,
    )  # fmt: skip
    for number, button in parts.times.items():
        button.click(lambda number=number: (number, 0), None, [parts.fields["scale"], parts.asked["target"]], **QUIET)
    for field in parts.asked.values():
        field.change(guard(look), seen, [parts.near, parts.loupe], trigger_mode="always_last", **QUIET)
    for button, act in ((parts.many, queue_files), (parts.folder, queue_folder)):
        button.upload(guard(act), {button, *parts.asked.values()}, None, **QUIET)
    generate, gallery = parts_of["generate"], parts_of["gallery"]
    sent = [parts.image, tabs, *fresh]
    generate.to_upscale.click(guard(send), [generate.entries, generate.chosen], sent, **QUIET)
    gallery.sends["to_upscale"].click(guard(send_from_gallery), gallery.chosen, sent, **QUIET)


def requested(studio, key, given, request):
    """The `UpscaleRequest` of the picture of that key and what the form holds, by the names of `parts.asked`.

    Raises `BadRequest` where there is no picture.
    """
    if not studio.inputs.has(key):
        raise BadRequest(say(request, "no_picture"))
    return of_picture(studio.inputs.picture(key).read_bytes(), given)


def of_picture(data, given):
    """The `UpscaleRequest` of a picture's PNG and what the form holds; a target is another word for a scale."""
    given = dict(given)
    target = given.pop("target")
    if target:
        given["scale"] = target / max(pictures.size_of(data))
    return UpscaleRequest(**given, image=data)
