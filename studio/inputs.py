"""What the artist works on: sources and their masks, kept by the content of the picture."""

import hashlib
import re
from pathlib import Path

from PIL import Image

from engines import masks
from engines.errors import BadRequest
from studio import images
from studio.gallery import OF_USER

KEY = re.compile(r"[0-9a-f]{32}")


class Inputs:
    """The folder `inputs` of a home. A picture has one key, whatever its file is called, and brings its mask back."""

    def __init__(self, home):
        self.folder = Path(home) / "inputs"

    def keep(self, source, user=""):
        """Keep a picture that `images.read_picture` reads; returns its key."""
        data = images.full_bytes(source)
        key = self.key(data)
        path = self.picture(key, user)
        if not path.exists():
            images.write_bytes(path, data)
        return key

    @staticmethod
    def key(data):
        """The key of a picture by its PNG, as a request holds it."""
        return hashlib.sha256(data).hexdigest()[:32]

    def picture(self, key, user=""):
        """The path of a picture. Raises `BadRequest` for what is no key."""
        return self._path(key, ".png", user)

    def has(self, key, user=""):
        """Whether there is a picture of a key that a browser remembers."""
        return bool(KEY.fullmatch(key or "")) and self.picture(key, user).exists()

    def given(self, key, user=""):
        """A picture and its mask as the fields of a request."""
        mask = self.mask(key, user)
        return {"image": self.picture(key, user).read_bytes(), "mask": mask.read_bytes() if mask else b""}

    def mask(self, key, user=""):
        """The path of a picture's mask, or None where nothing was painted yet."""
        path = self._path(key, ".mask.png", user)
        return path if path.exists() else None

    def keep_mask(self, key, data, user=""):
        """Keep the bytes of a PNG as the mask of a picture. Raises `BadRequest` if it does not fit."""
        picture = self.picture(key, user)
        if not picture.exists():
            raise BadRequest("The picture of this mask is gone; choose it again.")
        with Image.open(picture) as image:
            size = image.size
        images.write_bytes(self._path(key, ".mask.png", user), masks.to_png(masks.from_png(data, size)))

    def _path(self, key, ending, user):
        if not KEY.fullmatch(key or ""):
            raise BadRequest("There is no picture yet; choose one first.")
        folder = self.folder / f"{OF_USER}{user}" if user else self.folder
        return folder / f"{key}{ending}"
