"""The Generate tab: words, noise or a picture to new pictures."""

import dataclasses
import html
import secrets
from types import SimpleNamespace

import gradio as gr

from engines.additions import reading
from engines.catalog import catalog, find, tokenizer
from engines.errors import BadCheckpoint, BadRequest
from engines.requests import SUGGESTED, SUITED, Drawn, GenerateRequest, RefineRequest, choose, refitted, suited
from engines.text.prompt import readings
from studio import gallery, images, wildcards
from studio.jobs import FINAL
from studio.tabs import browser, queue
from studio.tabs.common import (
    QUIET,
    Latest,
    autoencoder_control,
    chosen_entry,
    control,
    guard,
    model_control,
    named,
    remembered,
    status,
    style_control,
    upload,
    wire_autoencoder,
)
from studio.texts import say, t

EXAMPLES = ("cat face, flat", "bus, 3d", "red heart, glossy", "man mage, 3d", "苹果，卡通", "太阳，立体")
FORESEEN = ("prompt", "model", "style", "count", "steps", "width", "height", "cfg_scale", "sampler")
WAYS = {"token-transformer": "tokens", "taming-transformer": "rows", "few-step-diffusion": "jumps"}
SHOWN = 12  # pictures on the page when it opens
COLUMNS = {1: 1, 2: 4, 3: 9, 4: 16}  # of the gallery, and the most pictures for which they do


def draw(studio):
    """Draw the tab; returns its parts, the fields of the request under `fields`."""
    first = find("", "generate", studio.home)
    fields, suits = {}, suited(first.family, dict.fromkeys(SUGGESTED), first.size)

    def add(name, **options):
        fields[name] = control(GenerateRequest, name, "generate", **options)

    with gr.Row(elem_id="generate-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            add("prompt", lines=2, max_lines=6, autofocus=True, placeholder=t("prompt.placeholder"))
            forecast = gr.HTML(elem_id="generate-forecast")
            with gr.Accordion(t("craft"), open=False, elem_id="generate-craft"):
                gr.Markdown(t("craft.help"), elem_classes="hint")
            with gr.Row(elem_classes="chips"):
                chips = [gr.Button(text, size="sm", elem_classes="chip", min_width=0) for text in EXAMPLES]
            fields["style"] = style_control("generate")
            with gr.Row(elem_classes="actions"):
                run = gr.Button(t("generate"), variant="primary", elem_id="generate-run", elem_classes="run")
                stop = gr.Button(t("stop"), interactive=False, elem_id="generate-stop", elem_classes="halt")
            with gr.Row(elem_classes="actions", visible=False) as verbs:
                finish = gr.Button(t("finish"), size="sm", elem_id="generate-finish")
                skip = gr.Button(t("skip"), size="sm", elem_id="generate-skip")
            jobs = queue.draw()
        with gr.Column(elem_classes="result"):
            line = gr.HTML(elem_id="generate-status", elem_classes="line")
            gr.Markdown(t("empty"), elem_id="generate-empty", elem_classes=["hint", "empty"])
            preview = gr.Image(
                show_label=False, format="png", visible=False, interactive=False, elem_id="generate-preview",
                elem_classes=["stage", "map"], buttons=[],
            )  # fmt: skip
            pictures = gr.Gallery(
                show_label=False, format="png", columns=2, object_fit="contain", interactive=False,
                elem_id="generate-gallery", elem_classes="stage", height="auto", buttons=["fullscreen"],
            )  # fmt: skip
            details = gr.HTML(elem_id="generate-details")
            with gr.Row(elem_classes="actions"):
                download = gr.DownloadButton(t("download"), size="sm", elem_id="generate-download", interactive=False)
                use_seed = gr.Button(t("use_seed"), size="sm", elem_id="generate-use-seed")
                use_settings = gr.Button(t("use_settings"), size="sm", elem_id="generate-use-settings")
                to_image = gr.Button(t("to_image"), size="sm", elem_id="generate-to-image")
                to_reconstruct = gr.Button(t("to_reconstruct"), size="sm", elem_id="generate-to-reconstruct")
                to_inpaint = gr.Button(t("to_inpaint"), size="sm", elem_id="generate-to-inpaint")
                to_upscale = gr.Button(t("to_upscale"), size="sm", elem_id="generate-to-upscale")
            with gr.Accordion(t("bigger"), open=False, elem_id="generate-bigger"):
                bigger = bigger_controls(studio)
                enlarge = gr.Button(t("bigger"), elem_id="generate-enlarge")
        with gr.Column(elem_classes="settings"):
            with gr.Accordion(t("settings"), open=True):
                add("negative")
                with gr.Row():
                    add("count")
                    add("steps", value=suits["steps"])
                add("cfg_scale", value=suits["cfg_scale"])
                noise_only = gr.Checkbox(
                    label=t("noise_only"), info=t("noise_only.help"), elem_id="generate-noise-only"
                )
                with gr.Row():
                    add("seed")
                    random_seed = gr.Checkbox(
                        True, label=t("random_seed"), info=t("random_seed.help"), elem_id="generate-random-seed"
                    )
                with gr.Row():
                    add("width", value=suits["width"])
                    add("height", value=suits["height"])
                fields["model"] = model_control(studio.home, "generate", "model.help")
                way = _way(studio, fields["model"].value)
                by_tokens = way in ("tokens", "rows")
                add("sampler", visible=way == "noise")
                add("scheduler", visible=way == "noise")
                fields["vae"] = autoencoder_control(studio.home, "generate", fields["model"].value)
            with gr.Accordion(t("from_picture"), open=False) as from_picture:
                gr.Markdown(t("source.help"), elem_classes="hint")
                image = upload("generate", 220, "source")
                add("strength")
            with gr.Accordion(t("variation"), open=False):
                add("variation_seed")
                add("variation_strength")
            with gr.Accordion(t("guidance_more"), open=False, visible=way == "noise") as guidance_more:
                add("cfg_rescale")
                add("cfg_start")
                add("cfg_end")
            with gr.Accordion(t("tokens_more"), open=False, visible=by_tokens) as tokens_more:
                add("order", visible=way != "rows")
                add("temperature")
                add("top_k")
                add("top_p")
                add("corrections", visible=way != "rows")
            with gr.Row(elem_classes="presets"):
                preset = gr.Dropdown(
                    [], label=t("preset"), info=t("preset.help"), allow_custom_value=True, elem_id="generate-preset"
                )
            with gr.Row(elem_classes="actions"):
                load_preset = gr.Button(t("preset.load"), size="sm", elem_id="generate-preset-load")
                save_preset = gr.Button(t("preset.save"), size="sm", elem_id="generate-preset-save")
                forget_preset = gr.Button(t("preset.forget"), size="sm", elem_id="generate-preset-forget")
                link = gr.Button(t("link"), size="sm", elem_id="generate-link")
            address = gr.Textbox(
                label=t("address"), info=t("address.help"), max_lines=1, interactive=False, elem_id="generate-address"
            )
            reuse = gr.UploadButton(t("read_settings"), file_types=[".png"], size="sm", elem_id="generate-reuse")
            gr.Markdown(t("read_settings.help"), elem_classes="hint")
    return SimpleNamespace(
        fields=fields, image=image, from_picture=from_picture, guidance_more=guidance_more, tokens_more=tokens_more,
        noise_only=noise_only, random_seed=random_seed,
        chips=chips, run=run, stop=stop, verbs=verbs, finish=finish, skip=skip, queue=jobs, line=line,
        preview=preview, pictures=pictures, details=details,
        download=download, use_seed=use_seed, use_settings=use_settings, to_image=to_image,
        to_reconstruct=to_reconstruct, to_inpaint=to_inpaint, to_upscale=to_upscale, bigger=bigger, enlarge=enlarge,
        reuse=reuse,
        forecast=forecast, preset=preset, load_preset=load_preset, save_preset=save_preset,
        forget_preset=forget_preset, link=link, address=address,
        asked=fields | {"image": image, "noise_only": noise_only, "random_seed": random_seed},
        job=gr.BrowserState("", storage_key="atelier-job", secret="atelier"), entries=gr.State([]), chosen=gr.State(0),
    )  # fmt: skip


def bigger_controls(studio):
    """Draw how a picture is made bigger; returns the fields of a `RefineRequest` that it does not bring itself."""
    gr.Markdown(t("bigger.help"), elem_classes="hint")
    with gr.Row():
        fields = {name: control(RefineRequest, name, "refine") for name in ("scale", "strength")}
    with gr.Row():
        fields["model"] = model_control(studio.home, "refine", "model.help")
        fields["upscaler"] = model_control(studio.home, "upscale", "upscaler.help", "refine", "upscaler")
    fields["overlap"] = control(RefineRequest, "overlap", "refine")
    return fields


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab; `parts_of` holds the parts of all tabs by name."""
    shown = [
        parts.line, parts.preview, parts.pictures, parts.details, parts.entries, parts.chosen, parts.download,
        parts.stop, parts.verbs,
    ]  # fmt: skip

    def suit(model):
        # a model by tokens has no noise to fall, and a denoiser no codes to guess; row by row the order is given, and
        # in few steps the path
        way = _way(studio, model)
        by_tokens = way in ("tokens", "rows")
        return {
            parts.fields["sampler"]: gr.Dropdown(visible=way == "noise"),
            parts.fields["scheduler"]: gr.Dropdown(visible=way == "noise"),
            parts.guidance_more: gr.Accordion(visible=way == "noise"),
            parts.tokens_more: gr.Accordion(visible=by_tokens),
            parts.fields["order"]: gr.Dropdown(visible=way != "rows"),
            parts.fields["corrections"]: gr.Slider(visible=way != "rows"),
            parts.fields["steps"]: gr.Slider(visible=way != "rows"),
        }

    def suggest(model, *values):
        # what suits another family gives way; what the artist has set stays
        rows = catalog(studio.home)
        if model not in rows:
            return values
        given = dict(zip(SUGGESTED, values, strict=True))
        sizes = {row.size for row in rows.values()} | {GenerateRequest.width}
        if rows[model].size and {given["width"], given["height"]} <= sizes:
            given["width"] = given["height"] = None
        return list(refitted(rows[model].family, given, rows[model].size).values())

    # What each page watches: the job that was asked last. Those before it go on, and are seen in the queue.
    followed = Latest()

    def submit(values):
        asked = requested(studio, named(parts.asked, values))
        job = studio.jobs.submit(asked)
        return job, asked.seed

    def follow(job, request: gr.Request):
        finished, followed[request.session_hash] = 0, job
        for state in studio.jobs.watch(job):
            if followed.get(request.session_hash) != job:
                return
            yield view(state, finished, request)
            finished = len(state.entries)

    def view(state, finished, request):
        # `finished` is how many of its pictures the page shows already
        over, drawn = state.state in FINAL, len(state.entries)
        update = {parts.line: status(state, request), parts.stop: gr.Button(interactive=not over)}
        update[parts.verbs] = gr.Row(visible=not over and state.pictures > 1)
        if state.progress and state.progress.preview:
            update[parts.preview] = gr.Image(state.progress.preview, visible=True)
            update[parts.pictures] = gr.Gallery(visible=drawn > 0)
        if over:
            update[parts.preview] = gr.Image(None, visible=False)
            update[parts.pictures] = gr.Gallery(visible=True)
        if drawn > finished or (over and drawn):
            update |= show(state.entries, request)
        return update

    def show(entries, request):
        return {
            parts.pictures: gr.Gallery(
                [(str(entry.path), say(request, "caption", seed=entry.seed)) for entry in entries],
                columns=next((columns for columns, most in COLUMNS.items() if len(entries) <= most), 6),
                visible=True, selected_index=None,
            ),
            parts.details: details(studio, entries[0], request),
            parts.entries: [entry.id for entry in entries],
            parts.chosen: 0,
            parts.download: gr.DownloadButton(value=str(entries[0].path), interactive=True),
        }  # fmt: skip

    def opened(job, request: gr.Request):
        recent = studio.gallery.recent(SHOWN)
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield show(recent, request) if recent else gr.skip()
        state = remembered(studio, job)
        if state and state.state not in FINAL:
            yield from follow(job, request)

    def choose(entries, event: gr.SelectData, request: gr.Request):
        entry = chosen_entry(studio, entries, event.index, request)
        return {
            parts.chosen: event.index,
            parts.details: details(studio, entry, request),
            parts.download: gr.DownloadButton(value=str(entry.path), interactive=True),
        }

    def use_seed(entries, index, request: gr.Request):
        return chosen_entry(studio, entries, index, request).seed, False

    def send(entries, index, request: gr.Request):
        return str(chosen_entry(studio, entries, index, request).path), gr.Tabs(selected="reconstruct")

    def start_from(entries, index, request: gr.Request):
        return str(chosen_entry(studio, entries, index, request).path), gr.Accordion(open=True)

    def enlarge(values, request: gr.Request):
        entry = chosen_entry(studio, values[parts.entries], values[parts.chosen], request)
        return studio.jobs.submit(made_bigger(catalog(studio.home), entry, named(parts.bigger, values)))

    def use_settings(entries, index, request: gr.Request):
        return filled(studio, parts, chosen_entry(studio, entries, index, request).record, request)

    def read_settings(path, request: gr.Request):
        return filled(studio, parts, images.read_record(path), request)

    def forecast(values, request: gr.Request):
        given = named(parts.asked, values)
        return {parts.forecast: foreseen(studio, given, request)}

    def look_presets(name):
        return gr.Dropdown(studio.presets.names(), value=name)

    def save_preset(values):
        name = values[parts.preset] or ""
        settings = {name: values[component] for name, component in kept.items()}
        studio.presets.save(name, settings)
        return {parts.preset: look_presets(name.strip())}

    def load_preset(name):
        settings = studio.presets.load(name or "")
        if settings.get("model") not in catalog(studio.home):  # the model that is chosen now stays
            settings.pop("model", None)
        return {component: settings[name] for name, component in kept.items() if name in settings}

    def forget_preset(name):
        studio.presets.forget(name or "")
        return look_presets(None)

    form = list(parts.asked.values())
    # Settings that a preset, a browser and a link keep: all but pictures.
    kept = {name: component for name, component in parts.asked.items() if name != "image"}
    follower = {"inputs": parts.job, "outputs": shown, "concurrency_limit": None, **QUIET}
    asking = parts.run.click(guard(submit), set(parts.asked.values()), [parts.job, parts.fields["seed"]], **QUIET)
    again = queue.wire(studio, parts.queue, parts.job)
    enlarging = parts.enlarge.click(
        guard(enlarge), {parts.entries, parts.chosen, *parts.bigger.values()}, parts.job, **QUIET,
    )  # fmt: skip
    for event in (asking, again, enlarging):
        event.success(guard(follow), trigger_mode="multiple", **follower)
    demo.load(guard(opened), **follower)
    gr.on(
        [demo.load, *(parts.fields[name].change for name in FORESEEN)],
        guard(forecast), set(form), parts.forecast, trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    demo.load(lambda: look_presets(None), None, parts.preset, **QUIET)
    parts.save_preset.click(guard(save_preset), {parts.preset, *kept.values()}, parts.preset, **QUIET)
    parts.load_preset.click(guard(load_preset), parts.preset, list(kept.values()), **QUIET)
    parts.forget_preset.click(guard(forget_preset), parts.preset, parts.preset, **QUIET)
    browser.wire_form(demo, kept, parts.link, parts.address, [row.id for row in catalog(studio.home).values()])
    parts.fields["model"].change(
        guard(suit), parts.fields["model"],
        [*(parts.fields[name] for name in ("sampler", "scheduler", "steps", "order", "corrections")),
         parts.guidance_more, parts.tokens_more],
        **QUIET,
    )  # fmt: skip
    wire_autoencoder(studio, parts.fields, parts_of["models"].rescan)
    parts.fields["model"].input(
        guard(suggest), [parts.fields["model"], *(parts.fields[name] for name in SUGGESTED)],
        [parts.fields[name] for name in SUGGESTED], **QUIET,
    )  # fmt: skip
    for button, verb in ((parts.stop, "stop"), (parts.finish, "finish"), (parts.skip, "skip")):
        ask = guard(lambda job, verb=verb: getattr(studio.jobs, verb)(job))
        button.click(ask, parts.job, None, api_visibility="private")
    for chip in parts.chips:
        chip.click(lambda text: text, chip, parts.fields["prompt"], **QUIET)
    parts.pictures.select(guard(choose), parts.entries, [parts.chosen, parts.details, parts.download], **QUIET)
    picked = [parts.entries, parts.chosen]
    parts.use_seed.click(guard(use_seed), picked, [parts.fields["seed"], parts.random_seed], **QUIET)
    parts.to_reconstruct.click(guard(send), picked, [parts_of["reconstruct"].image, tabs], **QUIET)
    parts.to_image.click(guard(start_from), picked, [parts.image, parts.from_picture], **QUIET)
    parts.use_settings.click(guard(use_settings), picked, form, **QUIET)
    parts.reuse.upload(guard(read_settings), parts.reuse, form, **QUIET)


def requested(studio, given):
    """The `GenerateRequest` of what the form holds, by the names of `parts.asked`."""
    given = dict(given) | {"prompt": wildcards.fill(given["prompt"], studio.home)}
    if given.pop("random_seed"):
        given["seed"] = secrets.randbelow(2**32)
    if given.pop("noise_only"):
        given |= {"prompt": "", "negative": "", "style": "", "cfg_scale": 1.0}
    if given["image"]:
        given["image"] = images.source_bytes(given["image"], 2 * max(given["width"], given["height"]))
    return GenerateRequest(**given)


def made_bigger(rows, entry, given):
    """The `RefineRequest` of a picture of the gallery, by its own words and seed, and what is `given` of it.

    A model of another family than that which drew it, by the `rows` of the catalog, goes by what suits it.
    """
    made = gallery.request_of(entry.record)
    own = {"cfg_scale": 1.0}
    if isinstance(made, GenerateRequest):
        own = {item.name: getattr(made, item.name) for item in dataclasses.fields(Drawn) if item.name != "count"}
        own["vae"] = made.vae if given["model"] == made.model else ""  # another model may draw on other latents
        drew, draws = (name in rows and rows[name].family for name in (made.model, given["model"]))
        own |= SUITED[draws] if draws in SUITED and draws != drew else {}
    return RefineRequest(**own | given, image=images.full_bytes(entry.path))


def filled(studio, parts, record, request):
    """The form filled with the settings of a recorded picture, as updates of the components of `parts.asked`."""
    made = gallery.request_of(record)
    if not isinstance(made, GenerateRequest):
        raise BadRequest(say(request, "not_generated"))
    update = {component: getattr(made, name) for name, component in parts.fields.items()}
    if made.model not in catalog(studio.home):  # the model that is chosen now stays
        del update[parts.fields["model"]]
    return update | {
        parts.image: images.read_picture(made.image) if made.image else None,
        parts.random_seed: False,
        parts.noise_only: not made.prompt and not made.style,
    }


def foreseen(studio, given, request):
    """What is known of a picture before it is drawn, as a line of HTML: tokens of the prompt, time and memory."""
    row = catalog(studio.home).get(given["model"])
    try:
        reader = row and tokenizer(row, studio.home)
    except BadCheckpoint as error:  # of a vocabulary that is not here
        return _refused(error)
    if reader is None:
        return ""
    text = given["prompt"].strip()
    try:
        words, reader = reading(choose(text, 0), reader, studio.home)
    except BadRequest as error:  # of a name that is not there, or not written to its end
        return _refused(error)
    count = max(reader.count(pieces) for pieces in readings(words.strip(), given["style"]))
    facts = [say(request, "tokens_of", count=count, most=reader.context_length)]
    try:
        wordless = given["noise_only"] or not (text or given["style"])
        asked = requested(studio, given | {"image": None, "noise_only": wordless})
        seconds, memory = studio.jobs.estimate(asked)
    except BadRequest:  # the form is not ready to be drawn; pressing the button says why
        seconds = memory = None
    if seconds is not None:
        facts.append(say(request, "takes", seconds=seconds))
    if memory is not None:
        facts.append(say(request, "needs", memory=memory / 2**20))
    crowded = " over" if count > reader.context_length else ""
    return f'<div class="status forecast{crowded}">{" · ".join(facts)}</div>'


def _refused(error):
    return f'<div class="status forecast over">{html.escape(str(error))}</div>'


def _way(studio, model):
    # how it draws: by "tokens" all over, by those in "rows", from noise in few "jumps", or by "noise"
    row = catalog(studio.home).get(model)
    return WAYS.get(row and row.family, "noise")


def details(studio, entry, request):
    """What a picture was drawn from, as a line of HTML."""
    try:
        made = gallery.request_of(entry.record)
    except BadRequest:  # of another version: the picture is shown all the same
        return ""
    if not isinstance(made, (GenerateRequest, RefineRequest)):
        return ""
    known = made.model in catalog(studio.home)
    way = _way(studio, made.model)
    how = {"tokens": f"order.{made.order}", "noise": f"sampler.{made.sampler}"}
    facts = [
        made.style and say(request, f"style.{made.style}"),
        say(request, "caption", seed=made.seed),
        f"{made.width} × {made.height}" if isinstance(made, GenerateRequest) else f"× {made.scale:g}",
        way != "rows" and say(request, "steps_taken", steps=made.steps),
        known and way in how and say(request, how[way]).split(":")[0].split("：")[0],
    ]
    words = html.escape(made.prompt or say(request, "without_words"))
    return f'<div class="details"><b>{words}</b><span>{" · ".join(filter(None, facts))}</span></div>'

