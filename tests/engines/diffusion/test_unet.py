"""The UNet against diffusers' on the same weights, and what must hold for any weights."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from engines.diffusion.unet import UNet, UNetConfig, guidance_embedding, timestep_embedding
from engines.errors import BadRequest
from tests.peers import published_key, randomise

TINY = dict(ch=32, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(0,), context_dim=24, num_heads=4)

# Each row: our config, and what the same net is called at the peer beside the common part.
CASES = {
    "sd1": (
        UNetConfig(in_channels=4, **TINY | {"num_res_blocks": 2}),
        dict(in_channels=4, layers_per_block=2, attention_head_dim=4),
    ),
    "sd2": (
        UNetConfig(in_channels=4, **TINY | {"head_dim": 16}, use_linear_projection=True, transformer_depth=2),
        dict(in_channels=4, attention_head_dim=(2, 4), use_linear_projection=True,
             transformer_layers_per_block=2),
    ),
    "nine_channels": (
        UNetConfig(in_channels=9, **TINY),
        dict(in_channels=9, attention_head_dim=4),
    ),
    "vector": (
        UNetConfig(in_channels=4, **TINY, adm_dim=12),
        dict(in_channels=4, attention_head_dim=4, class_embed_type="projection",
             projection_class_embeddings_input_dim=12),
    ),
    "guidance": (
        UNetConfig(in_channels=4, **TINY, guidance_dim=16),
        dict(in_channels=4, attention_head_dim=4, time_cond_proj_dim=16),
    ),
    "three_levels_fewer_groups": (
        UNetConfig(in_channels=4, **TINY | {"ch": 48, "ch_mult": (1, 2, 3), "attention_levels": (1, 2)},
                   norm_groups=16),
        dict(in_channels=4, block_out_channels=(48, 96, 144), attention_head_dim=4, norm_num_groups=16,
             down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
             up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")),
    ),
}


def peer(changes):
    torch.manual_seed(0)
    net = UNet2DConditionModel(**{
        "sample_size": 8,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
    } | changes).eval()
    return randomise(net)


def inputs(config, batch=3, size=(8, 16)):
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return dict(
        x=draw(batch, config.in_channels, *size),
        timesteps=torch.tensor([0.0, 421.5, 999.0])[:batch],
        context=draw(batch, 5, config.context_dim),
        vector=draw(batch, config.adm_dim) if config.adm_dim else None,
    ) | ({"guidance": torch.tensor([1.0, 2.5, 7.5])[:batch]} if config.guidance_dim else {})


@pytest.mark.parametrize("name", CASES)
def test_equals_diffusers_on_the_same_weights(name):
    config, changes = CASES[name]
    theirs, ours = peer(changes), UNet(config).eval()
    ours.load_state_dict({published_key(key, config): value for key, value in theirs.state_dict().items()})
    given = inputs(config)
    told = guidance_embedding(given["guidance"], config.guidance_dim) if config.guidance_dim else None
    with torch.no_grad():
        expected = theirs(
            given["x"], given["timesteps"], given["context"], class_labels=given["vector"], timestep_cond=told
        ).sample
        found = ours(**given)
    assert expected.std() > 0.1
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_keys_are_those_of_stable_diffusion_inpainting():
    """The full-size default holds published keys and shapes; built without memory."""
    with torch.device("meta"):
        state = UNet(UNetConfig()).state_dict()
    # Names and shapes as in sd-v1-5-inpainting.ckpt, without the prefix "model.diffusion_model.".
    published = {
        "time_embed.2.weight": (1280, 1280),
        "input_blocks.0.0.weight": (320, 9, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        "middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.0.in_layers.2.weight": (320, 640, 3, 3),
        "out.2.weight": (4, 320, 3, 3),
    }
    assert published == {key: tuple(state[key].shape) for key in published}
    # 859,520,964 parameters of Stable Diffusion 1, and five more input channels of 320 3x3 filters.
    assert sum(value.numel() for value in state.values()) == 859_520_964 + 5 * 320 * 9


def test_a_batch_equals_its_singles():
    config = CASES["vector"][0]
    net, given = randomise(UNet(config)).eval(), inputs(config)
    with torch.no_grad():
        together = net(**given)
        alone = torch.cat([
            net(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(len(together))
        ])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_concat_is_further_input_channels():
    config = CASES["nine_channels"][0]
    net, given = randomise(UNet(config)).eval(), inputs(config)
    x = given.pop("x")
    with torch.no_grad():
        torch.testing.assert_close(net(x[:, :4], **given, concat=x[:, 4:]), net(x, **given), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sd2", "vector"])
def test_gradients_reach_every_parameter(name):
    config = CASES[name][0]
    net = randomise(UNet(config))
    net(**inputs(config)).square().mean().backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_starts_as_zero():
    config = CASES["sd1"][0]
    assert not UNet(config)(**inputs(config)).any()


def test_channels_last_changes_nothing_but_speed():
    config = CASES["sd1"][0]
    net, given = randomise(UNet(config)).eval(), inputs(config)
    with torch.no_grad():
        plain = net(**given)
        net.to(memory_format=torch.channels_last)
        given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(net(**given), plain, rtol=1e-4, atol=1e-4)


def test_without_attention_the_context_is_not_read():
    net = randomise(UNet(UNetConfig(in_channels=4, **TINY | {"attention_levels": ()}))).eval()
    x, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([7.0])
    with torch.no_grad():
        assert net(x, timesteps, None).isfinite().all()


def test_timestep_embedding_is_cosines_then_sines():
    found = timestep_embedding(torch.tensor([0.0, 3.0]), 4)
    angles = torch.tensor([3.0, 3.0 / 100])  # periods of 10000 ** (0 / 2) and 10000 ** (1 / 2)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 1, 0, 0]))
    torch.testing.assert_close(found[1], torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize("change, words", [
    (dict(x=torch.zeros(3, 4, 7, 8)), "8x7.*multiples of 2"),
    (dict(x=torch.zeros(3, 5, 8, 8)), "5 channels; it takes 4"),
    (dict(vector=torch.zeros(3, 12)), "takes no vector"),
])
def test_wrong_inputs_are_refused(change, words):
    config = CASES["sd1"][0]
    with pytest.raises(BadRequest, match=words):
        UNet(config)(**inputs(config) | change)


def test_a_missing_vector_is_refused():
    config = CASES["vector"][0]
    with pytest.raises(BadRequest, match="needs a vector"):
        UNet(config)(**inputs(config) | {"vector": None})


@pytest.mark.parametrize("change, words", [
    (dict(ch=0), "ch of a UNet is 0"),
    (dict(ch=33, norm_groups=1, num_heads=1), "even"),
    (dict(norm_groups=24), "norm_groups=24"),
    (dict(num_heads=7), "num_heads=7"),
    (dict(head_dim=24), "head_dim=24"),
    (dict(adm_dim=-1), "adm_dim"),
    (dict(ch_mult=()), "ch_mult"),
    (dict(attention_levels=(2,)), "attention_levels"),
    (dict(transformer_depth=(1, 2, 3, 4)), "transformer_depth"),
    (dict(transformer_depth=0), "transformer_depth"),
    (dict(dropout=1.0), "dropout"),
])
def test_a_config_that_cannot_be_built_is_refused(change, words):
    with pytest.raises(BadRequest, match=words):
        UNetConfig(**TINY | change)


def test_a_config_read_from_json_equals_the_one_written():
    assert UNetConfig(**TINY | {"ch_mult": [1, 2], "attention_levels": [0]}) == UNetConfig(**TINY)
