"""The Generate tab: words, noise or a picture to new pictures."""

import secrets
from types import SimpleNamespace

import gradio as gr

from engines import requests
from engines.catalog import catalog
from engines.errors import BadRequest
from engines.requests import GenerateRequest
from studio import gallery, images
from studio.jobs import FINAL
from studio.tabs.common import Upload, control, guard, models_for, named, status
from studio.texts import say, t

EXAMPLES = ("a red fox, flat", "pizza, 3d", "red heart, glossy", "grinning cat, cartoon", "苹果，卡通")
SHOWN = 12  # pictures on the page when it opens


def draw(studio):
    """Draw the tab; returns its parts, the fields of the request under `fields`."""
    fields = {}

    def add(name, **options):
        fields[name] = control(GenerateRequest, name, "generate", **options)

    with gr.Row(elem_id="generate-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            add("prompt", lines=2, max_lines=6, autofocus=True)
            with gr.Row(elem_classes="chips"):
                chips = [gr.Button(text, size="sm", elem_classes="chip", min_width=0) for text in EXAMPLES]
            styles = [(t(f"style.{name or 'any'}"), name) for name in ("", *requests.STYLES)]
            fields["style"] = gr.Radio(
                styles, value="", label=t("style"), info=t("style.help"), elem_id="generate-style"
            )
            with gr.Row(elem_classes="actions"):
                run = gr.Button(t("generate"), variant="primary", elem_id="generate-run", elem_classes="run")
                stop = gr.Button(t("stop"), interactive=False, elem_id="generate-stop")
        with gr.Column(elem_classes="result"):
            line = gr.HTML(elem_id="generate-status")
            gr.Markdown(t("empty"), elem_id="generate-empty", elem_classes="hint")
            preview = gr.Image(
                show_label=False, format="png", visible=False, interactive=False, elem_id="generate-preview",
                elem_classes="stage", buttons=[],
            )  # fmt: skip
            pictures = gr.Gallery(
                show_label=False, format="png", columns=2, object_fit="contain", interactive=False,
                elem_id="generate-gallery", elem_classes="stage", height="auto", buttons=["fullscreen"],
            )  # fmt: skip
            with gr.Row(elem_classes="actions"):
                download = gr.DownloadButton(t("download"), size="sm", elem_id="generate-download", interactive=False)
                use_seed = gr.Button(t("use_seed"), size="sm", elem_id="generate-use-seed")
                to_image = gr.Button(t("to_image"), size="sm", elem_id="generate-to-image")
                to_reconstruct = gr.Button(t("to_reconstruct"), size="sm", elem_id="generate-to-reconstruct")
        with gr.Column(elem_classes="settings"):
            with gr.Accordion(t("settings"), open=True):
                add("negative")
                add("count")
                add("steps")
                add("cfg_scale")
                noise_only = gr.Checkbox(
                    label=t("noise_only"), info=t("noise_only.help"), elem_id="generate-noise-only"
                )
                add("seed")
                random_seed = gr.Checkbox(
                    True, label=t("random_seed"), info=t("random_seed.help"), elem_id="generate-random-seed"
                )
                with gr.Row():
                    add("sampler")
                    add("scheduler")
                add("width")
                add("height")
                choices = models_for(catalog(studio.home), "generate")
                fields["model"] = gr.Dropdown(
                    choices, value=choices[0][1] if choices else None, label=t("model"), info=t("model.help"),
                    elem_id="generate-model",
                )  # fmt: skip
            with gr.Accordion(t("from_picture"), open=False):
                gr.Markdown(t("image.help"), elem_classes="hint")
                image = Upload(
                    type="filepath", format="png", image_mode=None, sources=["upload", "clipboard"], label=t("image"),
                    elem_id="generate-image", height=220,
                )  # fmt: skip
                add("strength")
            with gr.Accordion(t("variation"), open=False):
                add("variation_seed")
                add("variation_strength")
            with gr.Accordion(t("guidance_more"), open=False):
                add("cfg_rescale")
                add("cfg_start")
                add("cfg_end")
            reuse = gr.UploadButton(t("reuse_settings"), file_types=[".png"], size="sm", elem_id="generate-reuse")
    return SimpleNamespace(
        fields=fields, image=image, noise_only=noise_only, random_seed=random_seed, chips=chips, run=run, stop=stop,
        line=line, preview=preview, pictures=pictures, download=download, use_seed=use_seed, to_image=to_image,
        to_reconstruct=to_reconstruct, reuse=reuse,
        job=gr.BrowserState("", storage_key="atelier-job", secret="atelier"), entries=gr.State([]), chosen=gr.State(0),
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab; `parts_of` holds the parts of all tabs by name."""
    asked = parts.fields | {"image": parts.image, "noise_only": parts.noise_only, "random_seed": parts.random_seed}
    shown = [
        parts.line, parts.preview, parts.pictures, parts.entries, parts.chosen, parts.download, parts.run, parts.stop,
    ]  # fmt: skip

    def submit(values):
        given = named(asked, values)
        if given.pop("random_seed"):
            given["seed"] = secrets.randbelow(2**32)
        if given.pop("noise_only"):
            given |= {"prompt": "", "negative": "", "style": "", "cfg_scale": 1.0}
        if given["image"]:
            given["image"] = images.png_bytes(images.read_picture(given["image"]))
        job = studio.jobs.submit(GenerateRequest(**given))
        return {parts.job: job, parts.fields["seed"]: given["seed"], parts.run: gr.Button(interactive=False)}

    def follow(job, request: gr.Request):
        for state in studio.jobs.watch(job):
            yield view(state, request)

    def follow_unfinished(job, request: gr.Request):
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield gr.skip()
        try:
            unfinished = job and studio.jobs.state(job).state not in FINAL
        except BadRequest:  # the browser remembers a job of another home
            return
        if unfinished:
            yield from follow(job, request)

    def view(state, request):
        busy = state.state not in FINAL
        update = {
            parts.line: status(state, request),
            parts.run: gr.Button(interactive=not busy),
            parts.stop: gr.Button(interactive=busy),
        }
        if state.progress and state.progress.preview:
            update[parts.preview] = gr.Image(state.progress.preview, visible=True)
            update[parts.pictures] = gr.Gallery(visible=False)
        if not busy:
            update[parts.preview] = gr.Image(None, visible=False)
            update[parts.pictures] = gr.Gallery(visible=True)
            if state.entries:
                update |= show(state.entries)
        return update

    def show(entries):
        return {
            parts.pictures: gr.Gallery(
                [(str(entry.path), f"seed {entry.seed}") for entry in entries],
                columns=1 if len(entries) == 1 else 2, visible=True, selected_index=None,
            ),
            parts.entries: [entry.id for entry in entries],
            parts.chosen: 0,
            parts.download: gr.DownloadButton(value=str(entries[0].path), interactive=True),
        }  # fmt: skip

    def opened():
        recent = studio.gallery.recent(SHOWN)
        return show(recent) if recent else gr.skip()

    def choose(entries, event: gr.SelectData):
        entry = studio.gallery.get(entries[event.index])
        return event.index, gr.DownloadButton(value=str(entry.path), interactive=True)

    def chosen(entries, index, request):
        entry = studio.gallery.get(entries[index]) if entries else None
        if entry is None:
            raise BadRequest(say(request, "nothing_chosen"))
        return entry

    def use_seed(entries, index, request: gr.Request):
        return chosen(entries, index, request).seed, False

    def send(entries, index, request: gr.Request):
        return str(chosen(entries, index, request).path), gr.Tabs(selected="reconstruct")

    def start_from(entries, index, request: gr.Request):
        return str(chosen(entries, index, request).path)

    def read_settings(path):
        made = gallery.request_of(images.read_record(path))
        if not isinstance(made, GenerateRequest):
            raise BadRequest("This picture was not drawn on the Generate tab, so there are no settings of it here.")
        update = {component: getattr(made, name) for name, component in parts.fields.items()}
        return update | {parts.random_seed: False, parts.noise_only: not made.prompt and not made.style}

    follower = {"inputs": parts.job, "outputs": shown, "show_progress": "hidden", "concurrency_limit": None}
    gr.on(
        [parts.run.click, parts.fields["prompt"].submit],
        guard(submit),
        inputs=set(asked.values()),
        outputs=[parts.job, parts.fields["seed"], parts.run],
        show_progress="hidden",
        api_visibility="private",
    ).success(guard(follow), **follower, api_visibility="private")
    demo.load(guard(opened), None, shown, show_progress="hidden", api_visibility="private").then(
        guard(follow_unfinished), **follower, api_visibility="private"
    )
    parts.stop.click(guard(lambda job: studio.jobs.cancel(job)), parts.job, None, api_visibility="private")
    for chip in parts.chips:
        chip.click(lambda text: text, chip, parts.fields["prompt"], show_progress="hidden", api_visibility="private")
    parts.pictures.select(
        guard(choose), parts.entries, [parts.chosen, parts.download], show_progress="hidden", api_visibility="private"
    )
    picked = [parts.entries, parts.chosen]
    parts.use_seed.click(
        guard(use_seed), picked, [parts.fields["seed"], parts.random_seed], show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    parts.to_reconstruct.click(
        guard(send), picked, [parts_of["reconstruct"].image, tabs], show_progress="hidden", api_visibility="private"
    )
    parts.to_image.click(guard(start_from), picked, parts.image, show_progress="hidden", api_visibility="private")
    parts.reuse.upload(
        guard(read_settings), parts.reuse, [*parts.fields.values(), parts.random_seed, parts.noise_only],
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip

