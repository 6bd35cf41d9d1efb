"""What is left to spandrel: in its folder only, with one sentence where it is missing or knows no better."""

import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engines import catalog
from engines.engine import Engine
from engines.errors import BadCheckpoint
from engines.requests import UpscaleRequest
from tests.tiny import png

# what spandrel documents of itself, for one kind of net: a picture twice as large, and brighter by what it learned
STAND_IN = '''
import torch
from safetensors.torch import load_file

class UnsupportedModelError(Exception):
    pass

class ImageModelDescriptor:
    scale, input_channels, output_channels = 2, 3, 3

    def __init__(self, weights):
        self.model = torch.nn.Module()
        self.model.brighter = torch.nn.Parameter(weights["brighter"])

    def __call__(self, x):
        assert x.min() >= 0 and x.max() <= 1
        return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest") + self.model.brighter

class ModelLoader:
    def __init__(self, device):
        self.device = device

    def load_from_file(self, path):
        weights = load_file(path)
        if "brighter" not in weights:
            raise UnsupportedModelError
        return ImageModelDescriptor(weights)
'''


@pytest.fixture
def home(tmp_path):
    (tmp_path / "models" / "upscalers").mkdir(parents=True)
    for folder in (tmp_path / "models", tmp_path / "models" / "upscalers"):
        save_file({"brighter": torch.tensor(0.2)}, folder / f"from-{folder.name}.safetensors")
    save_file({"other": torch.tensor(0.2)}, tmp_path / "models" / "upscalers" / "other.safetensors")
    save_file({"brighter": torch.tensor(float("nan"))}, tmp_path / "models" / "upscalers" / "nan.safetensors")
    return tmp_path


@pytest.fixture
def spandrel(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("site")
    (folder / "spandrel.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("spandrel", None)


def test_without_it_the_log_says_how_to_get_it(home, caplog):
    with caplog.at_level(logging.WARNING):
        rows = catalog.catalog(home)
    assert not any(row.family == "spandrel" for row in rows.values())
    assert "from-upscalers.safetensors is of no kind known here" in caplog.text
    assert "pip install spandrel" in caplog.text


def test_its_models_enlarge_like_ours_from_its_folder_alone(home, spandrel):
    rows = catalog.catalog(home)
    assert rows["from-upscalers"].tasks == ("upscale",) and "from-models" not in rows
    pixels = np.random.default_rng(0).integers(0, 200, (50, 70, 3), dtype=np.uint8)
    request = UpscaleRequest(image=png(Image.fromarray(pixels)), model="from-upscalers", tile=32)
    found = np.asarray(Engine(home, device="cpu").run(request).pictures[0].image)
    np.testing.assert_array_equal(found, (pixels.astype(int) + 51).repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("name", "words"), [("other", "no kind that spandrel knows"), ("nan", "NaN or infinite")])
def test_what_it_does_not_know_or_is_broken_gets_one_sentence(home, spandrel, name, words):
    with pytest.raises(BadCheckpoint, match=words):
        Engine(home, device="cpu").run(UpscaleRequest(image=png(Image.new("RGB", (9, 9))), model=name))
