"""What comparing our nets with those of the peer, diffusers, needs: its names, and weights that all matter."""

import re

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}
TOP = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "guidance_proj",
    "class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}


def published_key(key, config):
    """The name in a single-file checkpoint of what diffusers calls `key`."""
    for theirs, ours in TOP.items():
        if key.startswith(theirs + "."):
            return ours + key[len(theirs):]
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        kind, index, rest = match.groups()
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
    else:
        way, level, kind, index, rest = re.match(
            r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key
        ).groups()
        level, index, blocks = int(level), int(index), config.num_res_blocks
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (blocks + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            # After the last residual block of the level, and after its transformer if there is one.
            attention = len(config.ch_mult) - 1 - level in config.attention_levels
            return f"output_blocks.{level * (blocks + 1) + blocks}.{1 + attention}.{rest}"
        number = level * (blocks + 1) + index + (way == "down")
        place = f"{'input' if way == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}"
    if kind == "resnets":
        name, leaf = rest.split(".")
        rest = f"{RESNET[name]}.{leaf}"
    return f"{place}.{rest}"


def randomise(net, seed=1):
    """Every parameter random, the zero-initialised ones and the norms' included: all of them matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
            if parameter.ndim == 1:
                parameter += 0.5
    return net.eval()


def pipeline(vocabulary, context, kind=StableDiffusionPipeline, channels=4, parts=None, **text):
    """A Stable Diffusion as small as can be, which reads up to `context` tokens of the `vocabulary` in a folder.

    It is of a `kind` of pipeline, with further `parts`, and its net sees so many `channels`; `text` are further fields
    of a `CLIPTextConfig`.
    """
    torch.manual_seed(0)
    shape = CLIPTextConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=context, **text)
    return kind(
        vae=AutoencoderKL(block_out_channels=(32, 32), latent_channels=4, norm_num_groups=8,
                          down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        text_encoder=CLIPTextModel(shape),
        tokenizer=CLIPTokenizer(
            str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"), model_max_length=context
        ),
        unet=UNet2DConditionModel(in_channels=channels, sample_size=32, block_out_channels=(32, 64), layers_per_block=1,
                                  norm_num_groups=8, cross_attention_dim=32, attention_head_dim=4,
                                  down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, **(parts or {}),
    )  # fmt: skip
