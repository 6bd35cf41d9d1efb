"""Latent diffusion in few steps: what a model learned beside its weights to jump where it used to walk.

The path from noise to a picture is cut into a few stretches of equal time. From anywhere in one the net tells the
mean velocity to its end, with the guidance already in it, so that one evaluation crosses it: consistency models
(Song et al., 2023) of several stretches (Heek et al., 2024, "Multistep consistency models"), told the guidance scale
(Meng et al., 2023, "On distillation of guided diffusion models"). All that differs from the model that it was distilled
from is kept as products of narrow matrices (Hu et al., 2021; Luo et al., 2023, "LCM-LoRA").
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from engines.diffusion.latent import LatentDiffusion
from engines.errors import BadRequest


@dataclass(frozen=True)
class FewStepConfig:
    """What is added to a model that it may draw in few steps."""

    steps: int = 4  # the stretches of the path
    rank: int = 8  # of what is added to the weights of a layer
    guidance_dim: int = 64  # of the sinusoids of the guidance scale
    scales: tuple[float, float] = (1.0, 8.0)  # the least and the most guidance that it learns
    size: int = 128  # pixels a side of the pictures that the model learned from

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        for name in ("steps", "rank"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} of a model of few steps is {getattr(self, name)}; it must be at least 1.")
        if not 1 <= self.scales[0] < self.scales[1]:
            raise BadRequest(f"The scales of a model of few steps are {self.scales}; they rise from 1 or more.")


class FewSteps(nn.Module):
    """What is learned beside a `LatentDiffusion`, the `base`; with it, that draws in few steps.

    `down` and `up` hold the factors of what is added to each linear layer and convolution of the UNet.
    """

    family = "few-step-diffusion"

    def __init__(self, config, base):
        super().__init__()
        self.config, self.base = config, base
        shape = replace(base.config.unet, guidance_dim=config.guidance_dim)
        self.shape = replace(base.config, unet=shape)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in self._layers():
            outer, inner = weight.shape[0], weight[0].numel()
            rank = min(config.rank, outer, inner)
            self.down[name] = nn.Parameter(torch.randn(rank, inner) / inner**0.5)
            self.up[name] = nn.Parameter(torch.zeros(outer, rank))  # nothing is added at first
        self.guidance = nn.Linear(config.guidance_dim, base.config.unet.ch, bias=False)
        nn.init.zeros_(self.guidance.weight)

    def _layers(self):
        # the weights that something is added to, by their names with underscores
        for name, module in self.base.unet.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield name.replace(".", "_"), module.weight

    @torch.no_grad()
    def begin_with(self, other):
        """Set out from what `other` has learned beside the same base, at this rank or a lower one."""
        for name, down in self.down.items():
            rank = len(other.down[name])
            down[:rank] = other.down[name]
            self.up[name][:, :rank] = other.up[name]
        self.guidance.load_state_dict(other.guidance.state_dict())

    def weights(self):
        """The state of the UNet that draws in few steps."""
        own = self.guidance.weight  # the base may be elsewhere by now, and less precise
        state = {name: value.to(own) for name, value in self.base.unet.state_dict().items()}
        for name, weight in state.items():
            layer = name.removesuffix(".weight").replace(".", "_")
            if layer in self.down:
                state[name] = weight + (self.up[layer] @ self.down[layer]).view(weight.shape)
        return state | {"guidance_proj.weight": own}

    @torch.no_grad()
    def drawing(self):
        """The `FewStepDiffusion` of these weights; all but its UNet is that of the base."""
        with torch.device("meta"):  # all weights come from elsewhere
            model = FewStepDiffusion(self.shape, self.base.first_stage, self.config)
        model.unet.load_state_dict({name: value.detach() for name, value in self.weights().items()}, assign=True)
        for _, name in self.base.readers:
            setattr(model, name, getattr(self.base, name))
        model.base = self.base.name
        return model.to(self.guidance.weight.device).eval().requires_grad_(False)


class FewStepDiffusion(LatentDiffusion):
    """A `LatentDiffusion` that crosses each stretch at once, and is told how closely to follow words."""

    family = FewSteps.family
    base = ""  # the name of the model that it was distilled from

    def __init__(self, config, first_stage, few_steps):
        super().__init__(config, first_stage)
        self.few_steps = few_steps

    def led_by(self, captions, scale, height, width):
        """The denoiser `model(x, sigma)` of whole pictures of those pixels, a caption each, with guidance `scale`."""
        told = self.words(captions) | {"guidance": torch.full((len(captions),), scale, device=self.device)}
        if self.inpaints:
            told["concat"] = self.nothing_around(len(captions), height, width)
        return partial(self.denoiser(), **told)
