"""Tabs whose rooms are not built yet: each says in one line what will be there."""

from types import SimpleNamespace

import gradio as gr

from studio.texts import t


class Coming:
    """A tab that says what is coming; `name` is its key among the texts."""

    def __init__(self, name):
        self.name = name

    def draw(self, studio):
        """Draw the line."""
        gr.Markdown(t(f"{self.name}.coming"), elem_classes=["hint", "empty"])
        return SimpleNamespace()

    def wire(self, studio, parts, parts_of, tabs, demo):
        """Nothing to wire."""
