"""A picture and its mask on a page: what the painter shows of them, and what the studio keeps."""

import secrets

import gradio as gr
import numpy as np

from engines import masks
from engines.errors import BadRequest
from studio import images
from studio.mask_painter import SAVED
from studio.tabs.common import QUIET, file_of, guard, sent, temporary
from studio.texts import say


class Easel:
    """Pictures and masks of `inputs` on the `painter` of a tab."""

    # what is quiet and writes masks goes one after the other, as it was asked: an older one never comes over a newer
    IN_ORDER = QUIET | {"concurrency_id": "masks", "concurrency_limit": 1}

    def __init__(self, inputs, painter):
        self.inputs, self.painter = inputs, painter
        self.saved = SAVED.replace("PAINTER", painter.elem_id)  # js before a handler whose first input is the painter

    def wire(self):
        """Keep every stroke."""
        self.painter.change(guard(self._painted), self.painter, None, **self.IN_ORDER)

    def shown(self, key):
        """The value of the painter for a picture."""
        # a copy of the mask, as it is now: the next stroke may come before the browser has fetched it
        mask = self.inputs.mask(key)
        mask = mask and temporary("mask.png", mask.read_bytes())
        return {
            "key": key,
            "picture": file_of(self.inputs.picture(key)),
            "mask": mask and file_of(mask),
            "revision": secrets.token_hex(4),
        }

    def kept(self, value, request):
        """The key of the picture on the easel; what was painted on it is kept by then."""
        if not value or not value.get("key"):
            raise BadRequest(say(request, "inpaint.no_picture"))
        if value.get("painted"):
            self.inputs.keep_mask(value["key"], sent(value["painted"]).read_bytes())
        return value["key"]

    def read(self, key):
        """The picture `(H, W, 4)` uint8 and its mask `(H, W)`."""
        picture = images.read_picture(self.inputs.picture(key), transparent=True).convert("RGBA")
        path = self.inputs.mask(key)
        mask = masks.from_png(path.read_bytes(), picture.size) if path else np.zeros(picture.size[::-1], np.float32)
        return np.asarray(picture), mask

    def reshaped(self, change):
        """A guarded handler that puts `change(picture, mask, *amounts)` in the place of the mask."""

        def act(request: gr.Request, value, *amounts):
            key = self.kept(value, request)
            self.inputs.keep_mask(key, masks.to_png(change(*self.read(key), *amounts)))
            return self.shown(key)

        return guard(act)

    def _painted(self, value, request: gr.Request):
        if value:
            self.kept(value, request)
