"""DiffAugment: differentiable, of the same shape, different for each picture, repeatable."""

import pytest
import torch

from engines.training.augment import diff_augment


def pictures(batch=4, height=16, width=16):
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(1)) * 2 - 1


def augmented(x, seed=0):
    torch.manual_seed(seed)
    return diff_augment(x)


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (24, 8), (5, 7)])
def test_the_shape_is_kept(size):
    x = pictures(3, *size)
    y = augmented(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert y.isfinite().all()


def test_it_is_differentiable():
    """Against finite differences, in float64; the same draw at each evaluation."""
    x = pictures(2, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(augmented, x, fast_mode=True)
    augmented(x).square().sum().backward()
    assert all((row != 0).any() for row in x.grad)


def test_it_is_affine():
    """So real and made pictures differ after it by what they differed before, as one lens would show them."""
    x, y = pictures().double(), pictures().flip(0).double()
    torch.testing.assert_close(augmented(0.3 * x + 0.7 * y), 0.3 * augmented(x) + 0.7 * augmented(y))


def test_each_picture_of_a_batch_is_changed_in_its_own_way():
    y = augmented(pictures(1).expand(6, -1, -1, -1))
    apart = torch.pdist(y.flatten(1))
    assert (apart > 0.1).all()


def test_it_follows_the_generator_of_torch():
    x = pictures()
    assert torch.equal(augmented(x, seed=5), augmented(x, seed=5))
    assert not torch.equal(augmented(x, seed=5), augmented(x, seed=6))


def test_brightness_shift_and_cutout_on_a_plain_picture():
    """A plain picture has no saturation or contrast: what is left is one value within 1/2, and holes.

    The cutout takes a quarter of the area; a shift by up to an eighth leaves at least (7/8)^2 before it.
    """
    y = augmented(torch.full((64, 3, 16, 16), 0.25, dtype=torch.float64))
    values, shares = [], []
    for row in y:
        assert torch.equal(row[0], row[1]) and torch.equal(row[1], row[2])
        seen = row[0][row[0] != 0]
        torch.testing.assert_close(seen, seen[:1].expand_as(seen))
        values.append(seen[0].item())
        shares.append(len(seen) / 256)
    assert -0.25 <= min(values) < -0.1 and 0.6 < max(values) <= 0.75
    assert min(shares) >= (7 / 8) ** 2 - 1 / 4 and max(shares) <= 3 / 4
    assert len(set(shares)) > 5


def test_colour_is_within_its_limits():
    """Saturation at most doubles and contrast at most halves more than it: differences of pixels grow 3 times."""
    x = 0.1 * pictures(32).double()
    colourful = (x[:, 0] - x[:, 1]).abs().amax((1, 2))
    y = augmented(x)
    growth = (y[:, 0] - y[:, 1]).abs().amax((1, 2)) / colourful
    assert growth.max() <= 3 and growth.max() > 1 and growth.min() < 0.5
