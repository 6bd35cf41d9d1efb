"""What the browser keeps of the form, and links that fill it. All of it happens in the browser: nothing is lost
to an answer that comes later than the first letters typed."""

import json

import gradio as gr

from studio.tabs.common import QUIET

# The settings of a link come before those of the last visit, and those before the form's own.
RESTORE = """(saved, ...values) => {
  const names = %s, models = %s, linked = new URLSearchParams(location.search);
  return names.map((name, i) => {
    let value = values[i];
    if (saved && name in saved) value = saved[name];
    if (linked.has(name)) {
      const text = linked.get(name);
      value = typeof values[i] === 'number' ? Number(text) : typeof values[i] === 'boolean' ? text === 'true' : text;
      if (Number.isNaN(value)) value = values[i];
    }
    return name === 'model' && !models.includes(value) ? values[i] : value;
  });
}"""
KEEP = """(...values) => Object.fromEntries(%s.map((name, i) => [name, values[i]]))"""
LINK = """(...values) => {
  const link = new URL(location.pathname, location.origin);
  %s.forEach((name, i) => { if (values[i] !== null) link.searchParams.set(name, values[i]); });
  navigator.clipboard?.writeText(link.href).catch(() => {});  // it stands in the field as well
  return [link.href];
}"""


def wire_form(demo, kept, link, address, models):
    """Keep the components of `kept`, by their names, in the browser; the button `link` writes them into `address`.

    `models` are the ids that the form may name.
    """
    names, parts = json.dumps(list(kept)), list(kept.values())
    saved = gr.BrowserState(None, storage_key="atelier-form", secret="atelier")
    demo.load(None, [saved, *parts], parts, js=RESTORE % (names, json.dumps(models)), **QUIET)
    gr.on([part.change for part in parts], None, parts, saved, js=KEEP % names, **QUIET)
    link.click(None, parts, address, js=LINK % names, **QUIET)
