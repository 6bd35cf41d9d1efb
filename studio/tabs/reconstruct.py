"""The Reconstruct tab: a picture through a VQGAN and back, with its tokens."""

from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from engines.errors import BadPicture
from engines.requests import ReconstructRequest
from studio import images
from studio.jobs import FINAL
from studio.tabs import workshop
from studio.tabs.common import QUIET, control, guard, model_control, named, remembered, standing, tokens_button, upload
from studio.texts import say, t


def draw(studio):
    """Draw the tab; returns its parts, the fields of the request under `fields`."""
    with gr.Row(elem_id="reconstruct-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            gr.Markdown(t("empty_reconstruct"), elem_classes="hint")
            image = upload("reconstruct", 300)
            model = model_control(studio.home, "reconstruct", "reads.help")
            max_side = control(ReconstructRequest, "max_side", "reconstruct")
            with gr.Row(elem_classes="actions"):
                run = gr.Button(t("reconstruct"), variant="primary", elem_id="reconstruct-run", elem_classes="run")
                stop = gr.Button(t("stop"), interactive=False, elem_id="reconstruct-stop", elem_classes="halt")
            with gr.Row(elem_classes="actions"):
                save = gr.DownloadButton(t("save_tokens"), size="sm", elem_id="reconstruct-save", interactive=False)
                reopen = gr.UploadButton(t("open_tokens"), file_types=[".npz"], size="sm", elem_id="reconstruct-tokens")
            gr.Markdown(t("tokens.help"), elem_classes="hint")
        with gr.Column(elem_classes="result"):
            line = gr.HTML(elem_id="reconstruct-status", elem_classes="line")
            gr.Markdown(t("empty_stage"), elem_id="reconstruct-empty", elem_classes=["hint", "empty"])
            figures = gr.HTML(elem_id="reconstruct-figures")
            slider = gr.ImageSlider(
                show_label=False, format="png", interactive=False, elem_id="reconstruct-slider", elem_classes="stage",
                max_height=560,
            )  # fmt: skip
            gr.Markdown(t("side_by_side"), elem_classes="hint")
            with gr.Row():
                with gr.Column(min_width=160) as compared:
                    difference = _map("difference", "difference")
                with gr.Column(min_width=160):
                    tokens = _map("token-map", "token_map")
            bench = workshop.draw()
    return SimpleNamespace(
        fields={"model": model, "max_side": max_side}, image=image, run=run, stop=stop, line=line, figures=figures,
        slider=slider, compared=compared, difference=difference, tokens=tokens, save=save, reopen=reopen,
        workshop=bench,
    )  # fmt: skip


def _map(name, caption):
    image = gr.Image(
        show_label=False, format="png", interactive=False, elem_id=f"reconstruct-{name}", elem_classes=["stage", "map"],
        buttons=["download", "fullscreen"],
    )  # fmt: skip
    gr.Markdown(t(caption), elem_classes="hint")
    return image


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab."""
    asked = parts.fields | {"image": parts.image}
    # Outside of the tab: a browser reads what it remembers only where it is drawn, and a tab is drawn when visited.
    job = gr.BrowserState("", storage_key="atelier-reconstruct-job", secret="atelier")
    shown = [
        parts.line, parts.figures, parts.slider, parts.compared, parts.difference, parts.tokens, parts.save, parts.run,
        parts.stop,
    ]  # fmt: skip

    def submit(values, request: gr.Request):
        given = named(asked, values)
        if not given["image"]:
            raise BadPicture(say(request, "no_picture"))
        given["image"] = images.source_bytes(given["image"], given["max_side"])
        return studio.jobs.submit(ReconstructRequest(**given))

    def reopen(path, model):
        return studio.jobs.submit(ReconstructRequest(model=model, tokens=Path(path).read_bytes()))

    def follow(job, request: gr.Request):
        for state in studio.jobs.watch(job):
            update = standing(state, request, parts.line, parts.run, parts.stop)
            if state.result:
                result = state.result
                update |= {
                    parts.figures: figures(result, request),
                    parts.slider: (result.source or result.reconstruction, result.reconstruction),
                    parts.compared: gr.Column(visible=result.difference is not None),
                    parts.difference: result.difference,
                    parts.tokens: result.token_map,
                    parts.save: tokens_button(result.tokens),
                }
            yield update

    def follow_remembered(job, request: gr.Request):
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield gr.skip()
        state = remembered(studio, job)
        if state and (state.result or state.state not in FINAL):
            yield from follow(job, request)

    follower = {"inputs": job, "outputs": shown, "concurrency_limit": None, **QUIET}

    def run_job(event, submit, inputs):
        event(guard(submit), inputs, job, **QUIET).success(guard(follow), **follower)

    run_job(parts.run.click, submit, set(asked.values()))
    run_job(parts.reopen.upload, reopen, [parts.reopen, parts.fields["model"]])
    workshop.wire(studio, parts.workshop, job, parts.save, run_job)
    demo.load(guard(follow_remembered), **follower)
    parts.stop.click(guard(lambda job: studio.jobs.stop(job)), job, None, api_visibility="private")


def figures(result, request):
    """The measures of a reconstruction as a row of HTML."""
    rows = [] if result.psnr is None else [("psnr", f"{result.psnr:.2f} dB"), ("ssim", f"{result.ssim:.3f}")]
    if result.indices is not None:
        high, wide = result.indices.shape
        rows += [
            ("bits", f"{result.bits_per_pixel:.3f}"),
            ("tokens", f"{wide} × {high}"),
            ("codes", f"{result.codes_used} / {result.n_embed}"),
            ("perplexity", f"{result.perplexity:.0f}"),
        ]
    cells = "".join(f"<div><b>{value}</b><span>{say(request, f'figure.{key}')}</span></div>" for key, value in rows)
    return f'<div class="figures">{cells}</div>'
