"""What suits a model takes the place of what suits another, and of nothing that the artist has set."""

from types import SimpleNamespace

import pytest

from engines import catalog
from engines.requests import SUITED
from studio import layout
from tests.engines.checkpoints.test_stable_diffusion import tokenizer_files  # noqa: F401
from tests.engines.test_vae import home  # noqa: F401

# ruff: noqa: F811

PARTS = ["generate-steps", "generate-cfg-scale", "generate-width", "generate-height"]
ICONS, SD = (tuple(SUITED[family].values()) for family in ("latent-diffusion", "stable-diffusion"))


@pytest.mark.parametrize("model, before, after", [
    ("sd", (*ICONS, 256, 256), (*SD, 512, 512)),
    ("sd", (*ICONS, 128, 128), (*SD, 512, 512)),
    ("icons-diffusion", (*SD, 512, 512), (*ICONS, 256, 256)),
    ("sd", (7, ICONS[1], 192, 128), (7, SD[1], 192, 128)),
    ("gone", (*ICONS, 128, 128), (*ICONS, 128, 128)),
])  # fmt: skip
def test_settings_and_size_follow_the_model(home, model, before, after):
    demo = layout.build(SimpleNamespace(home=home, jobs=None, gallery=None, inputs=None))
    (suggest,) = (block.fn for block in demo.fns.values() if [part.elem_id for part in block.outputs] == PARTS)
    assert tuple(suggest(model, *before)) == after


def test_settings_of_an_inpainting_follow_the_model(home):
    demo = layout.build(SimpleNamespace(home=home, jobs=None, gallery=None, inputs=None))
    parts = ["inpaint-steps", "inpaint-cfg-scale"]
    (suggest,) = (block.fn for block in demo.fns.values() if [part.elem_id for part in block.outputs] == parts)
    assert tuple(suggest("sd", *ICONS)) == SD and tuple(suggest("gone", *ICONS)) == ICONS
    assert tuple(suggest("sd", 7, ICONS[1])) == (7, SD[1])


def test_the_catalog_tells_the_size_that_a_model_draws_best(home):
    rows = catalog.catalog(home)
    assert (rows["icons-diffusion"].size, rows["sd"].size, rows["telea"].size) == (256, 512, 0)
