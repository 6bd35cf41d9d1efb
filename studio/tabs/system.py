"""The System tab: device, memory, versions, disk and the end of the log."""

import html
import importlib.metadata
import platform
import shutil
from types import SimpleNamespace

import gradio as gr

from engines.requests import VERSION, EngineRequest
from engines.worker import LOG
from studio.tabs.common import QUIET, guard
from studio.texts import say, t

PACKAGES = ("torch", "gradio", "diffusers", "pillow", "numpy")
LINES, READ = 60, 64_000  # lines of the log that are shown, and bytes that are read for them


def draw(studio):
    """Draw the tab; returns its parts."""
    with gr.Column(elem_id="system-page"):
        engines = gr.HTML(elem_id="system-engines")
        facts = gr.HTML(elem_id="system-facts")
        again = gr.Button(t("system.again"), size="sm", elem_id="system-again")
        gr.Markdown(t("system.log"), elem_classes="hint")
        log = gr.HTML(elem_id="system-log")
    return SimpleNamespace(engines=engines, facts=facts, again=again, log=log)


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab."""

    def look(request: gr.Request):
        disk = shutil.disk_usage(studio.home)
        versions = f"Atelier {VERSION}, Python {platform.python_version()}, " + ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in PACKAGES
        )
        rows = [
            ("system.disk", say(request, "system.free", free=disk.free / 2**30, total=disk.total / 2**30)),
            ("system.versions", versions),
        ]
        if studio.shared:
            return facts(rows, request), ""
        rows.append(("system.home", str(studio.home)))
        return facts(rows, request), f'<pre class="log">{_tail(studio.home)}</pre>'

    def ask_engines(request: gr.Request):
        rows = []
        for engine in studio.jobs.everywhere(EngineRequest()):
            memory = f"{engine.memory / 2**30:.1f} GiB" if engine.memory else "–"
            rows.append(("system.device", f"{engine.device}, {memory}"))
            rows.append(("system.loaded", ", ".join(engine.loaded) or "–"))
        return facts(rows, request)

    def facts(rows, request):
        cells = "".join(f"<dt>{say(request, key)}</dt><dd>{html.escape(value)}</dd>" for key, value in rows)
        return f'<dl class="facts">{cells}</dl>'

    for event in (parts.tab.select, parts.again.click):
        event(guard(look), None, [parts.facts, parts.log], **QUIET)
        event(guard(ask_engines), None, parts.engines, **QUIET)  # which answer between two pictures


def _tail(home):
    # the last lines of the log, read from its end
    path = home / LOG
    if not path.exists():
        return ""
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - READ))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    return html.escape("\n".join(lines[-LINES:]))
