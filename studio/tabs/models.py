"""The Models tab: what is in the catalog, where it lies, its card, and what the engine holds of it."""

import html
import re
from types import SimpleNamespace

import gradio as gr

from engines.catalog import CARD, catalog
from engines.checkpoints import pickles
from engines.errors import AtelierError, BadRequest
from engines.requests import EngineRequest
from engines.text.prompt import NAMED
from studio.tabs.common import QUIET, guard, model_choices, temporary
from studio.texts import say, t

CARDS = (CARD, "about.md")  # beside a model, the first that is there is shown
PICTURES = (".png", ".webp", ".jpg")
PICTURE = re.compile(r"!\[(.*?)\]\((.*?)\)")  # of Markdown


def draw(studio):
    """Draw the tab; returns its parts."""
    choices = model_choices(catalog(studio.home).values())
    with gr.Row(elem_id="models-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            model = gr.Radio(
                choices, value=choices[0][1] if choices else None, label=t("models"), elem_id="models-list",
                elem_classes="jobs",
            )  # fmt: skip
            with gr.Row(elem_classes="actions"):
                load = gr.Button(t("models.load"), size="sm", elem_id="models-load")
                unload = gr.Button(t("models.unload"), size="sm", elem_id="models-unload")
                rescan = gr.Button(t("models.rescan"), size="sm", elem_id="models-rescan")
            convert = gr.Button(t("models.convert"), size="sm", visible=False, elem_id="models-convert")
            converted = gr.HTML(elem_id="models-converted", elem_classes="line")
            gr.Markdown(t("models.help"), elem_classes="hint")
            held = gr.HTML(elem_id="models-held")
        with gr.Column(elem_classes=["result", "always"]):
            facts = gr.HTML(elem_id="models-facts")
            card = gr.Markdown(elem_id="models-card")
    return SimpleNamespace(
        model=model, load=load, unload=unload, rescan=rescan, convert=convert, converted=converted,
        held=held, facts=facts, card=card,
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab; a rescan gives every tab the models that there are now."""
    shown = [parts.facts, parts.card]
    offered = {  # the choices of models of all tabs, by the task that they must be able to do
        "generate": [parts_of["generate"].fields["model"], parts_of["compare"].models["generate"]],
        "reconstruct": [parts_of["reconstruct"].fields["model"], parts_of["compare"].models["reconstruct"]],
        "upscale": [
            parts_of["upscale"].fields["model"], parts_of["generate"].bigger["upscaler"],
            parts_of["compare"].models["upscale"],
        ],
        "refine": [parts_of["generate"].bigger["model"]],
        "inpaint": [
            parts_of["inpaint"].fields["model"], parts_of["restore"].model, parts_of["compare"].models["inpaint"],
        ],
    }  # fmt: skip

    def look(name, request: gr.Request):
        row = catalog(studio.home).get(name)
        if row is None:
            raise BadRequest(say(request, "models.gone"))
        return _facts(row, studio.shared, request), _card(row)

    def act(name):
        def acted(model, request: gr.Request):
            engines = studio.jobs.everywhere(EngineRequest(name, model or ""))
            return "".join(_held(engine, request) for engine in engines)

        return guard(acted)

    def rescan(chosen):
        rows = list(catalog(studio.home).values())
        choices = model_choices(rows)
        ids = [row.id for row in rows]
        update = {parts.model: gr.Radio(choices, value=chosen if chosen in ids else ids[0] if ids else None)}
        for task, components in offered.items():
            able = model_choices(row for row in rows if task in row.tasks)
            for component in components:
                update[component] = type(component)(choices=able)
        return update | old()

    def old():
        return {parts.convert: gr.Button(visible=bool(pickles.waiting(studio.home / "models")))}

    def convert(chosen, request: gr.Request):
        lines = []

        def told(key, **values):
            return f'<div class="status">{html.escape(say(request, key, **values))}</div>'

        for source, target in pickles.waiting(studio.home / "models"):
            yield {parts.converted: "".join([*lines, told("models.converting", name=source.name)])}
            try:
                report = pickles.convert(source, target)
                lines.append(told("models.converted", name=target.name, count=report["tensors"]))
            except AtelierError as error:
                lines.append(f'<div class="status failed">{html.escape(str(error))}</div>')
        yield rescan(chosen) | {parts.converted: "".join(lines)}

    parts.model.change(guard(look), parts.model, shown, **QUIET)
    parts.tab.select(guard(look), parts.model, shown, **QUIET).success(act("status"), parts.model, parts.held, **QUIET)
    for name in ("load", "unload"):
        getattr(parts, name).click(act(name), parts.model, parts.held, **QUIET)
    parts.tab.select(guard(old), None, parts.convert, **QUIET)
    scanned = [parts.model, parts.convert, *(part for row in offered.values() for part in row)]
    parts.rescan.click(guard(rescan), parts.model, scanned, **QUIET)
    parts.convert.click(guard(convert), parts.model, [parts.converted, *scanned], **QUIET)


def _alone(row):
    # a folder of its own holds a model with its card; files in one folder would share one
    return row.path.name == "model.safetensors"


def _card(row):
    """The Markdown of a model's card, its pictures as links to files that the browser may fetch."""
    if row.path is None:
        return row.card["about"]
    folder = row.path.parent
    path = next((folder / name for name in CARDS if (folder / name).exists()), None) if _alone(row) else None
    if path is None:
        return ""
    there = {path.name: path for path in folder.iterdir() if path.suffix in PICTURES}

    def served(found):
        title, name = found.groups()
        if name not in there:
            return ""
        address = f"gradio_api/file={temporary(name, there[name].read_bytes())}"
        return f"[![{title}]({address})]({address})"

    return PICTURE.sub(served, path.read_text(encoding="utf-8"))


def _facts(row, shared, request):
    facts = [
        ("models.family", row.family), ("models.tasks", ", ".join(row.tasks)), ("models.licence", row.licence),
        ("models.size", f"{row.bytes / 2**20:.1f} MiB"),
    ]  # fmt: skip
    if row.family in NAMED:
        facts.append(("models.in_prompt", NAMED[row.family].format(row.id)))
    if row.path and not shared:
        facts.append(("models.path", str(row.path)))
    if other := row.first_stage or row.base:
        facts.append(("models.drawn_with", other["name"]))
    cells = "".join(f"<dt>{say(request, key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts)
    return f'<dl class="facts">{cells}</dl>'


def _held(engine, request):
    loaded = ", ".join(f"{html.escape(name)} ({size / 2**20:.0f} MiB)" for name, size in engine.loaded.items())
    told = say(request, "models.held", loaded=loaded or say(request, "models.none_held"), budget=engine.budget / 2**30)
    return f'<div class="status">{told}</div>'
