"""The losses against their formulas in float64, gradients by hand, and what they must prefer."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from engines.metrics import RandomPerceptual
from engines.training.losses import ADVERSARIAL, adaptive_weight, at_borders, contrastive, mode_seeking


def logits(seed, scale=3.0):
    return scale * torch.randn((4, 1, 5, 5), generator=torch.Generator().manual_seed(seed))


def pictures(batch=2, side=32):
    """Smooth random pictures with a few edges."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((batch, 3, 4, 4), generator=generator) * 2 - 1
    x = F.interpolate(coarse, size=side, mode="bilinear")
    x[:, :, side // 4 : side // 2, side // 4 :] *= -1
    return x


def noise_like(x):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(2))


def test_the_classical_game_is_that_of_goodfellow():
    """Equation 1 with D the sigmoid of a logit; the generator's non-saturating form of section 3."""
    generator_loss, discriminator_loss = ADVERSARIAL["classical"]
    real, fake = logits(0), logits(1)
    d_real, d_fake = torch.sigmoid(real.double()), torch.sigmoid(fake.double())
    expected = -(torch.log(d_real).mean() + torch.log(1 - d_fake).mean())
    assert discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)
    assert generator_loss(fake).item() == pytest.approx(-torch.log(d_fake).mean().item(), rel=1e-6)


def test_the_classical_game_has_its_known_equilibrium():
    """Where D says 1/2 everywhere its loss is log 4 (Goodfellow et al., theorem 1)."""
    generator_loss, discriminator_loss = ADVERSARIAL["classical"]
    undecided = torch.zeros(2, 1, 3, 3)
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(math.log(4))
    assert generator_loss(undecided).item() == pytest.approx(math.log(2))


def test_the_hinge_game():
    generator_loss, discriminator_loss = ADVERSARIAL["hinge"]
    # By hand: max(0, 1 - D(x)) is 3, 1, 0, 0 and max(0, 1 + D(G(x))) is 0, 0, 1.5, 4.
    real = torch.tensor([-2.0, 0.0, 1.0, 5.0])
    fake = torch.tensor([-3.0, -1.0, 0.5, 3.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (4 / 4 + 5.5 / 4))
    assert generator_loss(fake).item() == pytest.approx(0.5 / 4)
    assert discriminator_loss(torch.tensor([1.0, 9.0]), torch.tensor([-1.0, -9.0])) == 0


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_side_gains_by_its_own_aim(name):
    generator_loss, discriminator_loss = ADVERSARIAL[name]
    real, fake = logits(0, 0.2).requires_grad_(), logits(1, 0.2).requires_grad_()
    of_real, of_fake = torch.autograd.grad(discriminator_loss(real, fake), (real, fake))
    assert (of_real < 0).all() and (of_fake > 0).all()
    assert (torch.autograd.grad(generator_loss(fake), fake)[0] < 0).all()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_extreme_logits_stay_finite(name):
    generator_loss, discriminator_loss = ADVERSARIAL[name]
    for value in (-1e4, 1e4):
        wild = torch.full((1, 1, 2, 2), value)
        assert generator_loss(wild).isfinite() and discriminator_loss(wild, -wild).isfinite()


def test_adaptive_weight_is_the_ratio_of_the_gradients():
    """Gradients by hand: (3, 4) of norm 5 and (0, 2) of norm 2."""
    last_layer = torch.tensor([1.0, 1.0], requires_grad=True)
    reconstruction = (last_layer * torch.tensor([3.0, 4.0])).sum()
    fooling = last_layer[1].square()
    weight = adaptive_weight(reconstruction, fooling, last_layer)
    assert weight.item() == pytest.approx(5 / 2, rel=1e-4)  # within the 1e-4 that guards the division
    assert not weight.requires_grad and last_layer.grad is None
    (reconstruction + fooling).backward()  # the graphs are still there for the step itself
    assert last_layer.grad.tolist() == [3.0, 6.0]


def test_adaptive_weight_is_bounded():
    last_layer = torch.tensor([1.0], requires_grad=True)
    strong, none = 1e9 * last_layer.sum(), 0 * last_layer.sum()
    assert adaptive_weight(strong, none, last_layer) == 1e4
    assert adaptive_weight(none, strong, last_layer) == 0


def test_random_perceptual_is_the_same_for_the_same_seed():
    x, y = pictures(), noise_like(pictures())
    distances = []
    for state in (1, 2):  # torch's own generator plays no part
        torch.manual_seed(state)
        distances.append(RandomPerceptual()(x, y))
    assert distances[0] == distances[1]
    assert RandomPerceptual(seed=1)(x, y) != distances[0]


def test_random_perceptual_is_a_distance():
    net, x = RandomPerceptual(), pictures()
    y = x + 0.2 * noise_like(x)
    assert net(x, x) == 0
    assert net(x, y) > 0
    torch.testing.assert_close(net(x, y), net(y, x))
    # Two directions of non-negative features are at most a right angle apart.
    assert net(x, -x) <= 2


def test_random_perceptual_does_not_see_a_common_contrast():
    """Features are homogeneous and normalised, as in LPIPS: doubling both pictures changes nothing."""
    net, x = RandomPerceptual(), pictures()
    y = x + 0.2 * noise_like(x)
    torch.testing.assert_close(net(2 * x, 2 * y), net(x, y), rtol=1e-4, atol=0)


def blurred(x, width):
    kernel = torch.ones(3, 1, width, width) / width**2
    return F.conv2d(F.pad(x, (width // 2,) * 4, mode="replicate"), kernel, groups=3)


@pytest.mark.parametrize("spoiled", [
    lambda x, i: x + (0, 0.05, 0.1, 0.2, 0.4)[i] * noise_like(x),
    lambda x, i: blurred(x, (1, 3, 5, 7, 9)[i]),
], ids=["noise", "blur"])
def test_random_perceptual_rises_with(spoiled):
    net, x = RandomPerceptual(), pictures()
    distances = [net(x, spoiled(x, i)).item() for i in range(5)]
    assert distances == sorted(set(distances))
    assert distances[0] == pytest.approx(0, abs=1e-9)


def test_random_perceptual_teaches_the_picture_and_never_itself():
    net, x = RandomPerceptual(), pictures()
    y = (x + 0.2 * noise_like(x)).requires_grad_()
    net(x, y).backward()
    assert y.grad.isfinite().all() and (y.grad != 0).float().mean() > 0.9
    assert not [key for key, p in net.named_parameters() if p.requires_grad or p.grad is not None]


def test_mode_seeking_by_hand():
    """Neighbours 2 apart in the latents and 0.5 in the pictures, round the batch."""
    latents = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 4, 3, 3)
    images = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 12, 12)
    assert mode_seeking(images, latents).item() == pytest.approx(2 / 0.5, rel=1e-4)


def test_mode_seeking_prefers_diversity():
    latents = torch.randn((4, 4, 3, 3), generator=torch.Generator().manual_seed(3))
    x = pictures(4)
    alike = x.mean(0, keepdim=True) + 0.1 * (x - x.mean(0, keepdim=True))
    assert mode_seeking(x, latents) < mode_seeking(alike, latents)
    alike.requires_grad_()
    mode_seeking(alike, latents).backward()
    moved = (alike - 1e-2 * alike.grad / alike.grad.abs().max()).detach()
    assert torch.pdist(moved.flatten(1), p=1).mean() > torch.pdist(alike.detach().flatten(1), p=1).mean()


def test_mode_seeking_of_equal_pictures_is_finite():
    latents, same = logits(0), torch.zeros(4, 3, 8, 8, requires_grad=True)
    loss = mode_seeking(same, latents)
    loss.backward()
    assert loss.isfinite() and same.grad.isfinite().all()


def test_the_contrastive_loss_equals_that_of_transformers():
    similarity = logits(5)[:, 0, 0, :4] * 3
    assert contrastive(similarity).item() == pytest.approx(image_text_contrastive_loss(similarity).item(), rel=1e-6)


def test_pairs_that_find_each_other_cost_nothing():
    assert contrastive(100 * torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert contrastive(torch.zeros(4, 4)).item() == pytest.approx(math.log(4))


def test_pixels_at_borders_count_more():
    found = at_borders(torch.zeros(1, 3, 5, 4), 2.0, width=1)
    assert found.tolist() == [[9, 3, 3, 9], [3, 1, 1, 3], [3, 1, 1, 3], [3, 1, 1, 3], [9, 3, 3, 9]]
    assert torch.equal(at_borders(torch.zeros(1, 3, 20, 20), 0.0), torch.ones(20, 20))
