"""The page: every tab is drawn, then every tab is wired."""

import os
import tempfile
from pathlib import Path

# Gradio reads these when it is imported; the studio speaks to no one outside this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
TEMPORARY = tempfile.TemporaryDirectory(prefix="atelier-")  # of this process, and gone with it
os.environ["GRADIO_TEMP_DIR"] = TEMPORARY.name

import gradio as gr  # noqa: E402
from gradio.context import LocalContext  # noqa: E402

from studio import api, texts  # noqa: E402
from studio.security import Guard  # noqa: E402
from studio.tabs import compare, gallery, generate, inpaint, models, reconstruct, restore, system, upscale  # noqa: E402
from studio.tabs.coming import Coming  # noqa: E402
from studio.texts import I18N, t  # noqa: E402

TABS = {
    "generate": generate,
    "reconstruct": reconstruct,
    "inpaint": inpaint,
    "restore": restore,
    "upscale": upscale,
    "compare": compare,
    "gallery": gallery,
    "train": Coming("train"),
    "models": models,
    "system": system,
}
ASSETS = Path(__file__).parent.parent / "assets"
MAX_UPLOAD = "64mb"
HOUR = 3600

KEYS = ("run", "stop", "turn", "help", "close")  # of the shortcuts, as the texts name them


def theme():
    """Calm and plain: neutral greys, one accent, fonts of the system."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "sans-serif"]
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.stone,
        font=fonts,
        font_mono=["ui-monospace", "Consolas", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="0px",
        block_shadow="none",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_info_text_size="*text_sm",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        button_secondary_background_fill="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )


def shortcuts():
    """The list of all shortcuts, in both languages; the style sheet shows that of the browser."""
    lists = []
    for language in ("en", "zh"):
        rows = "".join(f"<li>{texts.ROWS[f'key.{key}'][language == 'zh']}</li>" for key in KEYS)
        lists.append(f'<ul lang="{language}">{rows}</ul>')
    return "".join(lists)


def visitor():
    """The name of the login that the page is answering just now; empty without logins."""
    request = LocalContext.request.get(None)
    return (request and request.username) or ""


def build(studio):
    """The `gr.Blocks` over a `studio` as `server.Studio` is one."""
    with gr.Blocks(title="Atelier", analytics_enabled=False, fill_width=True, delete_cache=(HOUR, 24 * HOUR)) as demo:
        with gr.Row(elem_id="header"):
            gr.HTML("<h1>Atelier</h1>")
            gr.Markdown(t("tagline"))
        with gr.Tabs(elem_id="tabs") as tabs:
            parts = {}
            for name, tab in TABS.items():
                with gr.Tab(t(name), id=name, elem_id=f"tab-{name}") as opened:
                    parts[name] = tab.draw(studio)
                parts[name].tab = opened
        for name, tab in TABS.items():
            tab.wire(studio, parts[name], parts, tabs, demo)
        gr.HTML(f'<dialog id="shortcuts" aria-label="Shortcuts">{shortcuts()}</dialog>')
        api.publish(studio)
    demo.queue(max_size=200, api_open=False, default_concurrency_limit=20)
    return demo


def launch(demo, host, port, home, logins=None, *, block=True):
    """Serve the page, behind `logins` if there are any; returns its address."""
    _, address, _ = demo.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        auth=logins.enter if logins else None,
        quiet=True,
        share=False,
        show_error=False,
        inbrowser=False,
        mcp_server=False,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        allowed_paths=[str(Path(home) / name) for name in ("gallery", "thumbnails", "inputs")],
        app_kwargs={"middleware": [Guard.middleware(host)]},
        theme=theme(),
        css_paths=[ASSETS / "style.css"],
        js=(ASSETS / "shortcuts.js").read_text(encoding="utf-8"),
        i18n=I18N,
    )
    return address
