"""The canvas of the workshop: a picture as tokens to paint on, with the codebook beside it."""

from pathlib import Path

import gradio as gr

SCRIPT = Path(__file__).parent.parent / "assets" / "token_map.js"
CANVASES = (
    '<div class="token-map"><canvas class="map"></canvas><div class="shelf"><canvas class="book"></canvas></div>'
    '<div class="tip" hidden><canvas width="40" height="40"></canvas><span></span></div></div>'
)


class TokenMap(gr.HTML):
    """Shows its value; reports `stroke`, with its `cells` and the chosen `code`, and `choose`, with a `code`.

    The value is None or a dict: `width`, `height` and `tokens` of the map, row after row; `picture`, a data
    URL; `sheet`, the codebook's patches as a file, `factor` pixels a side in rows of `columns`; `order`, the
    codes as the codebook lists them; `code`, the chosen one; `coloured`, whether the map shows codes as colours;
    `marked`, the marked places, counted row after row.
    """

    def __init__(self, **options):
        script = SCRIPT.read_text(encoding="utf-8")
        super().__init__(None, html_template=CANVASES, js_on_load=script, apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}
