"""The recipes as run, one table a trainer; a preset is what `train --preset` names."""

from dataclasses import replace

from engines.diffusion.few_steps import FewStepConfig
from engines.diffusion.unet import UNetConfig
from engines.training.clip import CLIPRecipe
from engines.training.diffusion import DiffusionRecipe
from engines.training.few_steps import FewStepRecipe
from engines.training.tokens import TokenRecipe
from engines.training.upscaler import UpscalerRecipe
from engines.training.vqgan import VQGANRecipe
from engines.vqgan.autoencoder import AutoencoderConfig, CodebookConfig

ICONS_F8 = AutoencoderConfig(
    ch=64, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(), z_channels=4, embed_dim=4, patch=4
)
DIGITS_F4 = AutoencoderConfig(
    ch=32, ch_mult=(1, 2), num_res_blocks=1, attention_levels=(), z_channels=4, embed_dim=4, patch=2, norm_groups=8
)

ICONS = VQGANRecipe(
    ICONS_F8,
    CodebookConfig(4096, l2_normalised=True, ema_decay=0.99),
    batch=16,
    rate=5e-4,
    adversarial_start=3000,
    photo_share=0.2,
)

LARGER = replace(
    ICONS,
    autoencoder=replace(ICONS_F8, larger=2),
    learns="larger",
    inexact=0.2,
    size=256,
    crop=128,
    adversarial_start=2000,
    photo_share=0.3,
)

REDRAWN = replace(LARGER, crop=256, batch=4, rate=3e-4, redrawn=0.5, adversarial_start=300, seed=1)

VQGAN = {
    "icons": ICONS,
    "icons-decoder": replace(ICONS, learns="decoder", rate=4e-4, adversarial_start=1000, photo_share=0.4),
    "icons-larger": LARGER,
    # of such a head: whole pictures to their corners, and those as a model draws them
    "icons-redrawn": REDRAWN,
    # and of what that one leaves in the corners
    "icons-bordered": replace(REDRAWN, border=8.0, rate=2e-4, adversarial_start=0, seed=2),
    "digits": VQGANRecipe(
        DIGITS_F4,
        CodebookConfig(128, l2_normalised=True, ema_decay=0.99),
        size=28,
        crop=28,
        batch=64,
        rate=1e-3,
        adversarial="classical",
        adversarial_start=300,
        discriminator_ch=16,
    ),
}

ICONS_DRAWN = DiffusionRecipe(
    unet=UNetConfig(
        ch=48,
        ch_mult=(1, 2, 4),
        num_res_blocks=1,
        attention_levels=(1, 2),
        context_dim=192,
        num_heads=4,
        adm_dim=192,
        norm_groups=16,
    )
)

DIFFUSION = {
    "icons": ICONS_DRAWN,
    "icons-longer": replace(ICONS_DRAWN, rate=4e-4),  # of a model that has learned most of it
}

SHARPER = FewStepRecipe(few_steps=FewStepConfig(rank=12), batch=16, rate=5e-4, adversarial_weight=1.0)

FEW_STEPS = {
    "icons": FewStepRecipe(few_steps=FewStepConfig()),
    "icons-longer": FewStepRecipe(few_steps=FewStepConfig(rank=12), rate=5e-4),  # of a model that has learned most
    # with a discriminator: what the jumps make smooth becomes as crisp as pictures are
    "icons-sharper": SHARPER,
    # with a CLIP, too, and mostly at the guidance that suits the teacher: they show what was asked for
    "icons-truer": replace(SHARPER, reward_weight=2.0, scale_power=2.0),
}

UPSCALER = {
    "icons": UpscalerRecipe(),
    "icons-longer": UpscalerRecipe(rate=4e-4, seed=1),  # of a model that has learned most of it
}

TEXT = {"icons": CLIPRecipe()}

TOKENS = {
    "icons": TokenRecipe(),
    "icons-longer": TokenRecipe(batch=64, variants=3, seed=1),  # of a model that has learned most of it
}
