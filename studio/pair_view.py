"""Two pictures of one thing, told apart by eye: behind a slider, side by side, by turns or as their difference."""

from pathlib import Path

import gradio as gr

SCRIPT = Path(__file__).parent.parent / "assets" / "pair_view.js"
MODES = ("slider", "side", "hover", "flicker", "difference")
STAGE = (
    '<div class="pair-view" hidden><div class="pair-stage">'
    '<figure class="one"><img alt=""><figcaption></figcaption></figure>'
    '<figure class="other"><img alt=""><figcaption></figcaption></figure></div>'
    '<input type="range" min="0" max="100" value="50" aria-label="A | B"></div>'
)


class PairView(gr.HTML):
    """Shows its value: None, or a dict with the addresses `one` and `other`, their `names`, and `mode`, one of MODES.

    The wheel zooms and dragging moves both pictures alike; a double click brings them back.
    """

    def __init__(self, **options):
        script = SCRIPT.read_text(encoding="utf-8")
        super().__init__(None, html_template=STAGE, js_on_load=script, apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}
