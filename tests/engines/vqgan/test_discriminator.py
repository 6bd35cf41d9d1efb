"""The discriminator: what a logit sees, and that nothing of the batch enters it."""

import pytest
import torch
from torch import nn

from engines.vqgan.discriminator import PatchDiscriminator


def pictures(batch, side):
    return torch.randn((batch, 3, side, side), generator=torch.Generator().manual_seed(1))


def build(ch=8, n_layers=3):
    torch.manual_seed(0)
    return PatchDiscriminator(ch=ch, n_layers=n_layers)


def test_a_full_size_picture_gets_30_by_30_logits():
    """The 70x70 PatchGAN of Isola et al. on 256x256 pixels."""
    with torch.device("meta"):
        net = PatchDiscriminator()
        assert net(torch.empty(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    # Widths of the paper's C64-C128-C256-C512, then one logit.
    assert [layer.out_channels for layer in net.main if isinstance(layer, nn.Conv2d)] == [64, 128, 256, 512, 1]


@pytest.mark.parametrize("n_layers, reach", [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_the_published_size(n_layers, reach):
    """16, 34 and 70 pixels a side (Isola et al., section 4.4 and its appendix).

    Group norm takes its statistics from the whole picture, so the convolutions are measured without it.
    """
    net = build(n_layers=n_layers)
    for i, layer in enumerate(net.main):
        if isinstance(layer, nn.GroupNorm):
            net.main[i] = nn.Identity()
    x = pictures(1, 112).requires_grad_()
    logits = net(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    rows, columns = x.grad.abs().sum((0, 1)).nonzero().T
    assert rows.max() - rows.min() + 1 == reach
    assert columns.max() - columns.min() + 1 == reach
    # Each neighbour looks as many pixels further as the strides multiply to.
    x.grad = None
    net(x)[0, 0, middle + 1, middle].backward()
    assert x.grad.abs().sum((0, 1, 3)).nonzero().min() - rows.min() == 2**n_layers


def test_a_verdict_does_not_depend_on_its_batch():
    net, x = build(), pictures(4, 48)
    for mode in (True, False):  # batch norm would mix pictures in training, and differ afterwards
        net.train(mode)
        with torch.no_grad():
            alone = torch.cat([net(row[None]) for row in x])
            torch.testing.assert_close(net(x), alone, rtol=1e-4, atol=1e-5)


def test_a_change_of_one_picture_leaves_the_other_verdicts():
    net, x = build(), pictures(3, 48)
    other = x.clone()
    other[1] += 1
    with torch.no_grad():
        change = (net(x) - net(other)).abs().amax((1, 2, 3))
    assert change[1] > 1e-3
    assert change[0] == change[2] == 0


def test_gradients_reach_every_parameter_and_pixel():
    net, x = build(n_layers=2), pictures(2, 32).requires_grad_()
    net(x).square().mean().backward()
    assert not [key for key, p in net.named_parameters() if not p.grad.abs().sum() > 0]
    assert (x.grad.abs().sum(1) > 0).all()


def test_it_learns_to_tell_noise_from_smooth_pictures():
    net = build(n_layers=2)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(2)

    def draw():
        noise = torch.randn((4, 3, 32, 32), generator=generator)
        return nn.functional.interpolate(noise[..., :4, :4], size=32, mode="bilinear"), noise

    for _ in range(30):
        smooth, noise = draw()
        loss = (net(smooth) - 1).square().mean() + (net(noise) + 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    smooth, noise = draw()
    assert net(smooth).mean((1, 2, 3)).min() > net(noise).mean((1, 2, 3)).max()
