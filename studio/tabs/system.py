"""The System tab: device, memory, versions, disk and the end of the log."""

import html
import importlib.metadata
import platform
import shutil
from types import SimpleNamespace

import gradio as gr

from engines.requests import VERSION, EngineRequest
from engines.worker import LOG
from studio.tabs.common import guard
from studio.texts import say, t

PACKAGES = ("torch", "gradio", "diffusers", "pillow", "numpy")
LINES = 60  # of the log


def draw(studio):
    """Draw the tab; returns its parts."""
    with gr.Column(elem_id="system-page"):
        facts = gr.HTML(elem_id="system-facts")
        again = gr.Button(t("system.again"), size="sm", elem_id="system-again")
        gr.Markdown(t("system.log"), elem_classes="hint")
        log = gr.HTML(elem_id="system-log")
    return SimpleNamespace(facts=facts, again=again, log=log)


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab."""

    def look(request: gr.Request):
        engine, disk = studio.jobs.aside(EngineRequest()), shutil.disk_usage(studio.home)
        memory = f"{engine.memory / 2**30:.1f} GiB" if engine.memory else "–"
        rows = [
            ("system.device", f"{engine.device}, {memory}"),
            ("system.loaded", ", ".join(engine.loaded) or "–"),
            ("system.disk", say(request, "system.free", free=disk.free / 2**30, total=disk.total / 2**30)),
            ("system.home", str(studio.home)),
            ("system.versions", f"Atelier {VERSION}, Python {platform.python_version()}, "
             + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)),
        ]  # fmt: skip
        cells = "".join(f"<dt>{say(request, key)}</dt><dd>{html.escape(value)}</dd>" for key, value in rows)
        return f'<dl class="facts">{cells}</dl>', f'<pre class="log">{_tail(studio.home)}</pre>'

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    for event in (parts.tab.select, parts.again.click):
        event(guard(look), None, [parts.facts, parts.log], **quiet)


def _tail(home):
    path = home / LOG
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return html.escape("\n".join(lines[-LINES:]))
