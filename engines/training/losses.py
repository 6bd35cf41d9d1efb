"""What training minimises: reconstruction, perception, adversary, diversity, contrast."""

import torch
import torch.nn.functional as F
from torch import nn

from engines.checkpoints import files

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
VGG16_TAPS = (3, 8, 15, 22, 29)  # the last rectifier of each stage


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al., 2018, eq. 1) on VGG16, for artists who have its weights.

    The weights file is a safetensors with the names of torchvision's VGG16 (`features.0.weight`, ...)
    and of the authors' linear layers (`lin0.model.1.weight`, ...). `(B, 3, H, W)` twice, in [-1, 1], to a
    scalar. Raises `BadCheckpoint` if the file does not fit.
    """

    def __init__(self, path):
        super().__init__()
        layers, before = [], 3
        for width in VGG16:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        widths = (64, 128, 256, 512, 512)
        for stage, width in enumerate(widths):
            weigh = nn.ModuleDict({"1": nn.Conv2d(width, 1, 1, bias=False)})
            self.add_module(f"lin{stage}", nn.ModuleDict({"model": weigh}))
        self.load_state_dict(files.load(path, {name: value.shape for name, value in self.state_dict().items()}))
        self.requires_grad_(False)
        # The authors' scaling, from [-1, 1] to VGG's own frame of colours.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def taps(self, x):
        maps, x = [], (x - self.shift) / self.scale
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in VGG16_TAPS:
                maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps

    def forward(self, x, y):
        distance = 0.0
        for stage, (a, b) in enumerate(zip(self.taps(x), self.taps(y), strict=True)):
            weigh = getattr(self, f"lin{stage}")["model"]["1"]
            distance = distance + weigh((a - b).square()).mean()
        return distance


# The adversarial game. `real` and `fake` are the discriminator's logits.


def classical_discriminator_loss(real, fake):
    """-log D(x) - log(1 - D(G(x))) (Goodfellow et al., 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def classical_generator_loss(fake):
    """-log D(G(x)): the non-saturating form (Goodfellow et al., 2014, section 3)."""
    return F.softplus(-fake).mean()


def hinge_discriminator_loss(real, fake):
    """max(0, 1 - D(x)) + max(0, 1 + D(G(x))), halved as in the VQGAN paper's code (Lim & Ye, 2017)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake):
    """-D(G(x))."""
    return -fake.mean()


ADVERSARIAL = {
    "classical": (classical_generator_loss, classical_discriminator_loss),
    "hinge": (hinge_generator_loss, hinge_discriminator_loss),
}


def adaptive_weight(reconstruction_loss, generator_loss, last_layer):
    """How much the adversary counts: the ratio of both gradients at the last layer (Esser et al., 2021, eq. 7)."""
    (of_reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (of_generator,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    return (of_reconstruction.norm() / (of_generator.norm() + 1e-4)).clamp(0, 1e4).detach()


def at_borders(x, more, width=8):
    """How much each pixel of pictures `x (B, C, H, W)` counts: 1, and `1 + more` so near to an edge; `(H, W)`.

    In the corners, which are near to two edges, it is the square of that.
    """
    sides = [x.new_ones(size) for size in x.shape[-2:]]
    for side in sides:
        side[:width] += more
        side[len(side) - width :] += more
    return sides[0][:, None] * sides[1]


def mode_seeking(pictures, latents):
    """A diversity term (Mao et al., 2019): small when different latents give different pictures.

    Compares each picture of the batch with its neighbour: the distance of their latents over the
    distance of the pictures.
    """
    apart = (pictures - pictures.roll(1, 0)).abs().mean((1, 2, 3))
    asked = (latents - latents.roll(1, 0)).abs().mean((1, 2, 3))
    return (asked / (apart + 1e-5)).mean()


def contrastive(similarity):
    """How badly texts and pictures find each other in a batch (Radford et al., 2021, figure 3).

    `similarity` is `(B, B)`, texts by pictures, with the pairs on the diagonal; the mean of the cross
    entropies of both directions.
    """
    pairs = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, pairs) + F.cross_entropy(similarity.T, pairs)) / 2
