"""Real-ESRGAN's nets: as large as the published ones, found in files by content alone, and without seams."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from engines import catalog
from engines.checkpoints import models
from engines.engine import Engine
from engines.errors import BadCheckpoint, BadRequest
from engines.esrgan import RRDBConfig, RRDBNet, SRVGGConfig, SRVGGNet
from engines.requests import UpscaleRequest
from engines.tasks.upscale import upscale
from tests.tiny import png

SMALL = {
    "rrdb": lambda scale: RRDBNet(RRDBConfig(ch=8, growth=4, blocks=2, scale=scale)),
    "srvgg": lambda scale: SRVGGNet(SRVGGConfig(ch=8, blocks=3, scale=scale)),
}


def written(folder, net, name="as-it-came"):
    """The file as other programs write it: tensors, and nothing else."""
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file({key: value + 0.02 * torch.randn_like(value) for key, value in net.state_dict().items()}, path)
    return path


def asked(size=(70, 45), **fields):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return UpscaleRequest(image=png(Image.fromarray(pixels)), **fields)


def parameters(net):
    return sum(value.numel() for value in net.parameters())


def test_the_nets_are_as_large_as_the_published_ones():
    assert parameters(RRDBNet(RRDBConfig())) == 16_697_987  # RealESRGAN_x4plus
    assert parameters(SRVGGNet(SRVGGConfig())) == 1_213_296  # realesr-general-x4v3
    assert parameters(SRVGGNet(SRVGGConfig(blocks=16))) == 621_424  # realesr-animevideov3
    names = set(RRDBNet(RRDBConfig()).state_dict())
    assert {"conv_first.weight", "body.22.rdb3.conv5.bias", "conv_body.weight", "conv_up2.bias", "conv_hr.bias"} < names
    assert {"body.0.weight", "body.1.weight", "body.66.bias"} < set(SRVGGNet(SRVGGConfig()).state_dict())


@pytest.mark.parametrize("family, scale", [("rrdb", 4), ("rrdb", 2), ("rrdb", 1), ("srvgg", 4), ("srvgg", 2)])
def test_a_file_is_recognised_by_what_is_in_it(tmp_path, family, scale):
    path = written(tmp_path, SMALL[family](scale))
    row = catalog.read(path)
    assert (row.family, row.tasks, row.licence) == (family, ("upscale",), "unknown")
    model = models.load(path)
    assert model.config == SMALL[family](scale).config
    for name, value in load_file(path).items():
        assert torch.equal(model.state_dict()[name], value), name


def rrdb_by_definition(w, x, scale, blocks):
    """The published forward pass, from the names in the file alone (basicsr, rrdbnet_arch)."""

    def conv(name, x):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def dense(name, x):
        x1 = F.leaky_relu(conv(f"{name}.conv1", x), 0.2)
        x2 = F.leaky_relu(conv(f"{name}.conv2", torch.cat((x, x1), 1)), 0.2)
        x3 = F.leaky_relu(conv(f"{name}.conv3", torch.cat((x, x1, x2), 1)), 0.2)
        x4 = F.leaky_relu(conv(f"{name}.conv4", torch.cat((x, x1, x2, x3), 1)), 0.2)
        return conv(f"{name}.conv5", torch.cat((x, x1, x2, x3, x4), 1)) * 0.2 + x

    feat = out = conv("conv_first", F.pixel_unshuffle(x, {4: 1, 2: 2, 1: 4}[scale]))
    for block in range(blocks):
        inner = out
        for number in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{number}", inner)
        out = inner * 0.2 + out
    feat = feat + conv("conv_body", out)
    feat = F.leaky_relu(conv("conv_up1", F.interpolate(feat, scale_factor=2, mode="nearest")), 0.2)
    feat = F.leaky_relu(conv("conv_up2", F.interpolate(feat, scale_factor=2, mode="nearest")), 0.2)
    return conv("conv_last", F.leaky_relu(conv("conv_hr", feat), 0.2))


def srvgg_by_definition(w, x, scale, blocks):
    """The published forward pass of the compact net (Real-ESRGAN, srvgg_arch)."""
    out = x
    for layer in range(0, 2 * blocks + 3, 2):
        out = F.conv2d(out, w[f"body.{layer}.weight"], w[f"body.{layer}.bias"], padding=1)
        if layer < 2 * blocks + 2:
            out = torch.where(out >= 0, out, w[f"body.{layer + 1}.weight"].view(1, -1, 1, 1) * out)
    return F.pixel_shuffle(out, scale) + x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


@pytest.mark.parametrize("family, scale", [("rrdb", 4), ("rrdb", 2), ("rrdb", 1), ("srvgg", 4), ("srvgg", 2)])
def test_they_compute_what_was_published(tmp_path, family, scale):
    path = written(tmp_path, SMALL[family](scale))
    model, x = models.load(path), torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    by_definition = {"rrdb": rrdb_by_definition, "srvgg": srvgg_by_definition}[family]
    expected = by_definition(load_file(path), x, scale, model.config.blocks)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family, scale", [("rrdb", 4), ("rrdb", 2), ("srvgg", 4), ("srvgg", 2)])
def test_pictures_of_any_size_are_enlarged_and_tiles_do_not_show(tmp_path, family, scale):
    model = models.load(written(tmp_path, SMALL[family](scale)))
    whole, tiled = (np.asarray(upscale(asked(scale=scale, tile=side), model).pictures[0].image) for side in (1024, 32))
    assert whole.shape == (45 * scale, 70 * scale, 3)
    assert np.abs(whole.astype(int) - tiled).max() <= 2
    assert upscale(asked((5, 3), scale=2.5), model).pictures[0].image.size == (12, 8)


def test_a_net_that_cleans_up_alone_says_so(tmp_path):
    model = models.load(written(tmp_path, SMALL["rrdb"](1)))
    assert upscale(asked(scale=1), model).pictures[0].image.size == (70, 45)
    with pytest.raises(BadRequest, match="enlarges none"):
        upscale(asked(scale=2), model)


def test_the_artists_files_are_in_the_catalog_and_draw(tmp_path):
    (tmp_path / "models").mkdir()
    written(tmp_path / "models", SMALL["srvgg"](4), "mine")
    engine = Engine(tmp_path, device="cpu")
    result = engine.run(asked(model="mine", scale=4))
    assert result.pictures[0].image.size == (280, 180)


def test_a_file_that_lacks_a_part_is_refused(tmp_path):
    net = SMALL["rrdb"](4)
    state = {name: value for name, value in net.state_dict().items() if name != "conv_hr.bias"}
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(BadCheckpoint, match="conv_hr.bias is missing"):
        models.load(tmp_path / "cut.safetensors")
    save_file({"body.0.weight": torch.zeros(8, 3, 3, 3), "body.1.weight": torch.zeros(8)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadCheckpoint):
        models.load(tmp_path / "odd.safetensors")
    save_file({"something": torch.zeros(3)}, tmp_path / "else.safetensors")
    with pytest.raises(BadCheckpoint, match="no model of a known family"):
        catalog.read(tmp_path / "else.safetensors")
