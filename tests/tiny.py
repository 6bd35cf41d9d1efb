"""Small models with random weights and small pictures, for tests of what surrounds them."""

import dataclasses

import numpy as np
import torch
from PIL import Image

from engines import pictures, requests
from engines.checkpoints import files, models
from engines.diffusion.few_steps import FewStepConfig
from engines.diffusion.unet import UNetConfig
from engines.diffusion.upscaler import Upscaler, UpscalerConfig
from engines.training.clip import CLIPRecipe, CLIPTrainer
from engines.training.data import Example
from engines.training.diffusion import DiffusionRecipe, DiffusionTrainer
from engines.training.few_steps import FewStepRecipe, FewStepTrainer
from engines.training.tokens import TokenRecipe, TokenTrainer
from engines.vqgan.autoencoder import VQGAN, AutoencoderConfig, CodebookConfig, KLAutoencoder

AUTOENCODER = AutoencoderConfig(
    ch=16, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(), z_channels=4, embed_dim=4, norm_groups=8, patch=2
)
UNET = UNetConfig(
    ch=16, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(1,), context_dim=24, num_heads=2, adm_dim=24,
    norm_groups=8,
)
WORDS = {
    "text_width": 24, "text_layers": 1, "text_heads": 2, "vocab_size": 300, "context_length": 32, "size": 32,
    "photo_variants": 2,
}  # fmt: skip
RECIPE = DiffusionRecipe(unet=UNET, batch=4, **WORDS)
CLIP_RECIPE = CLIPRecipe(ch=8, batch=12, **WORDS)
TOKEN_RECIPE = TokenRecipe(width=24, layers=2, heads=2, batch=4, dropout=0.0, **WORDS)
FEW_STEP_RECIPE = FewStepRecipe(few_steps=FewStepConfig(rank=2, guidance_dim=8, size=32), batch=4, **WORDS)
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 80, 220)}


def examples(count=24, size=32):
    """Icons of one colour each: a square or a disc, captioned in English and Chinese, and two photographs."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    rows = []
    for i in range(count):
        name, colour = list(COLOURS.items())[i % 3]
        shape = "disc" if i % 2 else "square"
        inside = np.hypot(x, y) < size / 3 if shape == "disc" else np.maximum(abs(x), abs(y)) < size / 3
        pixels = np.zeros((size, size, 4), np.uint8)
        pixels[inside] = (*colour, 255)
        rows.append(Example(f"{i}.png", pixels, f"{name} {shape} {i}", f"{i}号", "flat", (f"{shape}",)))
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (2, size + 8, size + 4, 3), dtype=np.uint8)
    return rows + [Example(f"photo{i}.png", pixels) for i, pixels in enumerate(photos)]


def vqgan(seed=0):
    torch.manual_seed(seed)
    model = VQGAN(AUTOENCODER, CodebookConfig(64, l2_normalised=True, ema_decay=0.99)).eval().requires_grad_(False)
    return _as_loaded(model, seed)


def two_headed():
    """A VQGAN that decodes its latents to pictures of twice the sides, too."""
    torch.manual_seed(0)
    shape = dataclasses.replace(AUTOENCODER, larger=1)
    model = VQGAN(shape, CodebookConfig(64, l2_normalised=True, ema_decay=0.99)).eval().requires_grad_(False)
    return _as_loaded(model, 0)


def kl(seed=0):
    torch.manual_seed(seed)
    return _as_loaded(KLAutoencoder(AUTOENCODER).eval().requires_grad_(False), seed)


def _as_loaded(model, seed):
    model.name, model.sha256 = "mirror", f"{seed:064x}"
    return model


def save(path, model, card=None):
    """A model as a file, and beside it the others that it draws with: `mirror.safetensors`, `walker.safetensors`."""
    base = getattr(model, "base", None)
    if base is not None:
        beside = path.parent / "walker.safetensors"
        save(beside, base)
        base.name, base.sha256 = "walker", files.sha256(beside)
    first_stage = getattr(model, "first_stage", None)
    if first_stage is not None:
        beside = path.parent / "mirror.safetensors"
        models.save(beside, first_stage, {})
        first_stage.name, first_stage.sha256 = "mirror", files.sha256(beside)
    models.save(path, model, card or {})


def diffusion_trainer(recipe=RECIPE, **options):
    return DiffusionTrainer(recipe, examples(), vqgan(), **options)


def clip_trainer(recipe=CLIP_RECIPE, **options):
    return CLIPTrainer(recipe, examples(), vqgan(), **options)


def token_trainer(recipe=TOKEN_RECIPE, **options):
    return TokenTrainer(recipe, examples(), vqgan(), **options)


def few_step_trainer(recipe=FEW_STEP_RECIPE, **options):
    base = latent_diffusion()
    base.name, base.sha256 = "walker", f"{1:064x}"
    return FewStepTrainer(recipe, examples(), base, **options)


def reader(steps=0):
    """A CLIP that has learned the pictures for so many steps, as if from a file."""
    trainer = clip_trainer(dataclasses.replace(CLIP_RECIPE, batch=24))
    for index in range(steps):
        trainer.step(index, 1.0)
    trainer.model.sha256 = f"{2:064x}"
    return trainer.model


def few_steps():
    """What a model learned to draw in few steps, with something added to every layer."""
    model = few_step_trainer().model.requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    for parameter in (*model.up.values(), model.guidance.weight):
        parameter.normal_(0, 0.05, generator=draw)
    return model


def token_generator():
    """A model whose guesses depend on words, places and known tokens, and are neither sure nor even."""
    model = token_trainer().model
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=draw)
    return model.eval().requires_grad_(False)


def latent_diffusion(recipe=RECIPE):
    """A model whose every weight counts: nothing in it is zero."""
    model = diffusion_trainer(recipe).model
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05, generator=draw)
    return model.eval().requires_grad_(False)


def four_channels():
    """A model that was never told of masks."""
    unet = dataclasses.replace(UNET, in_channels=4)
    return latent_diffusion(dataclasses.replace(RECIPE, unet=unet))


def upscaler(seed=0):
    """A model whose every weight counts."""
    torch.manual_seed(seed)
    model = Upscaler(UpscalerConfig(ch=8, blocks=2, residual_std=(0.3, 0.4)))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return _as_loaded(model.eval().requires_grad_(False), seed)


def picture(width, height, mode="RGB"):
    """Soft blots of all colours, always the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 5 + 1, width // 5 + 1, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def png(image):
    """A picture as a request holds it."""
    return pictures.to_png(image)


def request(**fields):
    return requests.GenerateRequest(**{"prompt": "red disc", "width": 64, "height": 64, "steps": 3, "seed": 7} | fields)
