"""Latent diffusion (Rombach et al., 2022): a UNet on the latents of an autoencoder, led by words.

SDXL is read by two encoders of words and told numbers about its picture (Podell et al., 2023, sections 2.1 and 2.2).
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from engines import blending
from engines.diffusion.denoisers import DENOISERS
from engines.diffusion.schedules import DiscreteNoise, FlowNoise, alphas_cumprod, scaled_linear_betas
from engines.diffusion.unet import UNet, UNetConfig, timestep_embedding
from engines.errors import BadRequest, unknown
from engines.offload import Offload
from engines.text import tokenizer
from engines.text.encoder import TextConfig, TextEncoder
from engines.vqgan.autoencoder import with_first_stage


def _grey(pictures, hole):
    """As Stable Diffusion's inpainting model was trained; its hard edges colour the latents beside them."""
    return pictures * ~hole


def filled(pictures, hole):
    """`pictures (B, 3, H, W)` with what is around `hole (B, 1, H, W)` bool continued into it, grey where nothing is."""
    rows = [
        blending.membrane(picture.permute(1, 2, 0).numpy(), ~there[0].numpy())
        for picture, there in zip(pictures.cpu(), hole.cpu(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous().to(pictures)


SIZES = 8, 4096  # pixels a side of the pictures that a model can have learned from
HOLES = {"grey": _grey, "filled": filled}
NUMBER_DIM = 256  # of the sinusoids of a number that is told about a picture
NUMBERS = (0, 5, 6)  # none, those of SDXL's refiner, of which the last is a score, or those of SDXL
SCORES = (6.0, 2.5)  # how fine SDXL's refiner is told that a picture is which is wanted, and one which is not


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """All of the model but its weights and its autoencoder."""

    unet: UNetConfig
    text: TextConfig
    tokenizer: str  # the JSON text of the byte-pair encoding
    prediction: str = "flow"  # what the net predicts, a name in DENOISERS
    latent_mean: tuple[float, ...] = field(default=(0.0, 0.0, 0.0, 0.0))  # of the training latents, a channel
    latent_std: float = 1.0  # of the training latents; the UNet sees them with mean 0 and spread 1
    size: int = 128  # pixels a side of the training pictures
    hole: str = "grey"  # how the net sees what is to be painted, a key of HOLES
    text_2: TextConfig | None = None  # of a second reader, whose states stand beside those of the first
    tokenizer_2: str = ""  # which it reads by

    def __post_init__(self):
        object.__setattr__(self, "latent_mean", tuple(self.latent_mean))
        if self.prediction not in DENOISERS:
            raise unknown("prediction", self.prediction, DENOISERS)
        if self.hole not in HOLES:
            raise unknown("hole", self.hole, HOLES)
        width = sum(text.width for text in self.readers)
        if width != self.unet.context_dim:
            raise BadRequest(
                f"The text encoder is {width} wide, and the UNet listens to {self.unet.context_dim}; "
                "the two must be equal."
            )
        known = [self.pooled + NUMBER_DIM * numbers for numbers in NUMBERS]
        if self.unet.adm_dim not in (0, *known):
            raise BadRequest(f"The UNet takes a vector of {self.unet.adm_dim}; with these words it must be of {known}.")
        if len(self.latent_mean) != self.unet.out_channels:
            raise BadRequest(f"latent_mean needs {self.unet.out_channels} numbers, one a channel of the latents.")
        if not all(map(math.isfinite, self.latent_mean)) or not 0 < self.latent_std < math.inf:
            raise BadRequest("latent_mean and latent_std must be finite numbers, and latent_std above 0.")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise BadRequest(f"The size of a model is {self.size}; it must lie between {SIZES[0]} and {SIZES[1]}.")

    @property
    def readers(self):
        """The configurations of the encoders of words, in their order."""
        return (self.text, self.text_2) if self.text_2 else (self.text,)

    @property
    def pooled(self):
        """Width of the pooled words."""
        return self.readers[-1].projection or self.readers[-1].width

    @property
    def numbers(self):
        """How many numbers about a picture the UNet is told beside its pooled words, one of NUMBERS."""
        return max(0, self.unet.adm_dim - self.pooled) // NUMBER_DIM


class LatentDiffusion(nn.Module):
    """UNet, text encoder and the frozen autoencoder, and the frames between them.

    With `1 + 2 C` input channels for `C` of the latents, the UNet sees a mask and the latents of the
    masked picture beside the noisy latents, as Stable Diffusion's inpainting model does.
    """

    family = "latent-diffusion"

    def __init__(self, config, first_stage):
        super().__init__()
        self.config = config
        self.first_stage = first_stage.requires_grad_(False).eval()
        self.unet = UNet(config.unet)
        self.text = TextEncoder(config.text)
        self.tokenizer = tokenizer.opened(config.tokenizer, config.text.context_length)
        self.readers = [(self.tokenizer, "text")]
        if config.text_2:
            self.text_2 = TextEncoder(config.text_2)
            self.readers.append((tokenizer.opened(config.tokenizer_2, config.text_2.context_length), "text_2"))
        # flow has a noise of its own; the others have that of Stable Diffusion
        with torch.device("cpu"):  # numbers, also where a net is built without memory
            discrete = DiscreteNoise(alphas_cumprod(scaled_linear_betas()))
            mean = torch.tensor(config.latent_mean).view(1, -1, 1, 1)
        self.noise = FlowNoise() if config.prediction == "flow" else discrete
        self.register_buffer("latent_mean", mean, persistent=False)
        self.offload = None

    def lower(self, precision):
        """Let the UNet compute in another `precision`, a dtype, with channels last, as GPUs are quickest.

        Words, latents and pictures stay in float32: an autoencoder overflows in float16.
        """
        self.unet.to(dtype=precision, memory_format=torch.channels_last)

    def take_turns(self, device):
        """Let text encoders, UNet and autoencoder be on a `device` one at a time, and else where they are.

        The model takes and gives tensors of that `device`. `offload` is what moves them.
        """
        self.latent_mean = self.latent_mean.to(device)
        readers = [getattr(self, name) for _, name in self.readers]
        self.offload = Offload([*readers, self.unet, self.first_stage], device)

    @property
    def precision(self):
        """The dtype that the UNet computes in."""
        return self.unet.out[-1].weight.dtype

    @property
    def inpaints(self):
        return self.config.unet.in_channels > self.config.unet.out_channels

    @property
    def device(self):
        return self.latent_mean.device

    @property
    def size(self):
        """Pixels a side of the pictures that it learned from."""
        return self.config.size

    @property
    def size_multiple(self):
        """Pixels that both sides of a picture must be a multiple of."""
        return self.first_stage.config.factor * self.config.unet.size_multiple

    def drawing_with(self, autoencoder):
        """This model with another autoencoder of the same latents; all else belongs to both."""
        other = with_first_stage(self, autoencoder)
        if autoencoder.family == "taesd":  # whose latents are in the frame of the UNet already
            other.config = replace(self.config, latent_std=1.0)
        return other

    def denoiser(self):
        """The UNet as `model(x, sigma, **extra) -> denoised`."""
        lower = None if self.precision == torch.float32 else self.precision
        return DENOISERS[self.config.prediction](self.unet, self.noise, lower)

    def encode(self, pictures):
        """Latents `(B, C, h, w)` of `(B, 3, H, W)` in the frame of the UNet: mean 0, spread 1."""
        return (self.first_stage.encode(pictures) - self.latent_mean) / self.config.latent_std

    def decode(self, x):
        """Pictures `(B, 3, H, W)` of latents in the frame of the UNet."""
        return self.first_stage.decode(x * self.config.latent_std + self.latent_mean)

    def words(self, texts, size=None, wanted=True):
        """The UNet's conditioning on a list of texts: `context (B, T, width)`, and `vector` where it takes one.

        A text may be pieces `(words, weight)`. Where numbers are told, too, `size` is `(width, height)` of the
        picture in pixels, that of the training by default, and `wanted` says whether the texts are to be followed.
        """
        states = []
        for reader, name in self.readers:
            tokens = torch.from_numpy(reader.encode(texts)).to(self.device)
            weights = torch.from_numpy(reader.weights(texts)).to(self.device)
            states.append(getattr(self, name)(tokens, weights))
        context, vector = torch.cat([hidden for hidden, _ in states], dim=-1), states[-1][1]
        if len(self.readers) > 1:  # SDXL learned with zeros where nothing is said
            said = torch.tensor([self.tokenizer.count(text) > 2 for text in texts], device=self.device)
            context, vector = context * said[:, None, None], vector * said[:, None]
        if not self.config.unet.adm_dim:
            return {"context": context}
        if self.config.numbers:
            vector = torch.cat([vector, self._numbers(size, wanted).expand(len(texts), -1)], dim=1)
        return {"context": context, "vector": vector}

    def _numbers(self, size, wanted):
        # height and width of what a picture was, where it was cut, and what it is or how fine; `(1, numbers * dim)`
        width, height = size or (self.size, self.size)
        last = (height, width) if self.config.numbers == NUMBERS[-1] else (SCORES[not wanted],)
        numbers = torch.tensor([height, width, 0, 0, *last], device=self.device)
        return timestep_embedding(numbers, NUMBER_DIM).flatten().unsqueeze(0)

    def surroundings(self, pictures, mask):
        """What the UNet is told of the picture around the hole: `concat (B, 1 + C, h, w)`.

        `pictures (B, 3, H, W)`; `mask (B, 1, H, W)`, 1 = repaint; what is repainted is hidden as `HOLES` say.
        """
        small = nn.functional.max_pool2d(mask, self.first_stage.config.factor)
        return torch.cat([small, self.encode(HOLES[self.config.hole](pictures, mask >= 0.5))], dim=1)

    def nothing_around(self, count, height, width):
        """`surroundings` of `count` pictures of `height x width` pixels that are repainted whole."""
        grey = self.latent_mean.new_zeros(1, 3, height, width)
        return self.surroundings(grey, torch.ones_like(grey[:, :1])).expand(count, -1, -1, -1)
