"""The PatchGAN discriminator (Isola et al., 2017): is this patch of a picture real?"""

from torch import nn


class PatchDiscriminator(nn.Module):
    """`(B, 3, H, W)` to one logit a patch; `n_layers` strided convolutions set the patch's size.

    Group norm stands where the paper has batch norm, so that a picture's verdict does not depend
    on its batch.
    """

    def __init__(self, in_channels=3, ch=64, n_layers=3):
        super().__init__()
        layers = [nn.Conv2d(in_channels, ch, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, n_layers + 1):
            before, after = ch * min(2 ** (i - 1), 8), ch * min(2**i, 8)
            stride = 2 if i < n_layers else 1
            layers += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, after),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(after, 1, 4, padding=1))
        self.main = nn.Sequential(*layers)

    def forward(self, x):
        return self.main(x)
