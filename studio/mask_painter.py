"""The painter of masks: a picture at its full resolution, and what of it is painted anew."""

import json
from pathlib import Path

import gradio as gr

from studio.texts import ROWS

SCRIPT = Path(__file__).parent.parent / "assets" / "mask_painter.js"
TOOLS = ("brush", "eraser", "lasso", "rectangle", "fill", "hand")
ACTS = ("undo", "redo", "invert", "clear", "fit", "save")
STAGE = (
    '<div class="painter" tabindex="0"><div class="tools" role="toolbar"></div>'
    '<div class="easel"><canvas class="picture"></canvas><canvas class="mask"></canvas><div class="ring" hidden></div>'
    "</div></div>"
)
SAVED = """async (...values) => {
  const painter = document.querySelector('#PAINTER .painter');
  if (painter?.saved) values[0] = await painter.saved();
  return values;
}"""  # what a handler does first whose first input is the painter of the id PAINTER: the last stroke counts


class MaskPainter(gr.HTML):
    """Shows its value, and reports `change` when something was painted.

    The value is None or a dict: `key` of the picture; `picture` and `mask`, files, the mask None where nothing is
    painted yet; `revision`, another number whenever the mask is to be taken from here; and, of the browser,
    `painted`, the file of the mask as it is now.
    """

    def __init__(self, **options):
        names = [*TOOLS, *ACTS, "size", "opacity", "original"]
        words = {
            language: {name: ROWS[f"painter.{name}"][number] for name in names}
            for number, language in enumerate(("en", "zh"))
        }
        tables = f"const WORDS = {json.dumps(words)}, TOOLS = {json.dumps(TOOLS)}, ACTS = {json.dumps(ACTS)};\n"
        script = tables + SCRIPT.read_text(encoding="utf-8")
        super().__init__(None, html_template=STAGE, js_on_load=script, apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}
