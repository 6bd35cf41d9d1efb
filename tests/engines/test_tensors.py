"""Pictures and noise as tensors: what goes in comes out, and a row knows nothing of its batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from engines import tensors

EVERY_VALUE = np.stack([np.roll(np.arange(256, dtype=np.uint8), shift).reshape(8, 32) for shift in (0, 7, 91)], -1)


def test_every_value_of_a_picture_comes_back():
    image = Image.fromarray(EVERY_VALUE)
    x = tensors.from_image(image)
    assert x.shape == (1, 3, 8, 32) and x.dtype == torch.float32
    again, = tensors.to_images(x)
    assert again.mode == "RGB" and again.size == image.size
    np.testing.assert_array_equal(np.asarray(again), EVERY_VALUE)


def test_black_is_minus_one_white_is_one_and_red_comes_first():
    x = tensors.from_image(Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 51]]], np.uint8)))
    expected = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -0.6]])  # 51 is a fifth of the way
    torch.testing.assert_close(x[0, :, 0].T, expected)


def test_bytes_and_pictures_are_the_same_tensor():
    x = tensors.from_bytes(torch.from_numpy(EVERY_VALUE)[None])
    assert torch.equal(x, tensors.from_image(Image.fromarray(EVERY_VALUE)))


def test_other_modes_become_rgb():
    grey = Image.new("L", (4, 3), 128)
    assert torch.equal(tensors.from_image(grey), tensors.from_image(Image.new("RGB", (4, 3), (128,) * 3)))


def test_values_outside_are_clipped_and_those_between_are_rounded():
    x = torch.tensor([-7.0, -1.001, 1.001, 7.0, 10.4 / 127.5 - 1, 10.6 / 127.5 - 1]).expand(1, 3, 1, 6)
    image, = tensors.to_images(x)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 255, 255, 10, 11]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pictures_come_of_every_precision_and_of_gradients(dtype):
    x = torch.full((2, 3, 4, 5), 1.0, dtype=dtype, requires_grad=True)
    images = tensors.to_images(x)
    assert [image.getpixel((4, 3)) for image in images] == [(255, 255, 255)] * 2


def test_a_row_of_noise_depends_on_its_seed_alone():
    shape = (3, 4, 5)
    together = tensors.noise([7, 8, 2**32 - 1], shape)
    torch.manual_seed(99)  # nor on what ran before
    for row, seed in zip(together, [7, 8, 2**32 - 1], strict=True):
        assert torch.equal(tensors.noise([seed], shape)[0], row)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    x = tensors.noise(range(100), (1000,))
    assert torch.equal(torch.get_rng_state(), before)
    # standard errors of 100,000 draws are 0.003 and 0.0022
    assert float(x.mean()) == pytest.approx(0, abs=0.015)
    assert float(x.std()) == pytest.approx(1, abs=0.01)
    assert float(x[:-1].flatten() @ x[1:].flatten()) / x[1:].numel() == pytest.approx(0, abs=0.015)


def test_slerp_begins_and_ends_at_its_noises():
    a, b = tensors.noise([0, 1], (4, 8, 8)), tensors.noise([2, 3], (4, 8, 8))
    torch.testing.assert_close(tensors.slerp(a, b, 0.0), a)
    torch.testing.assert_close(tensors.slerp(a, b, 1.0), b)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_slerp_keeps_the_norm_and_divides_the_angle(share):
    noises = tensors.noise([0, 1, 2, 3], (256,))
    a, b = (16 * noises / noises.norm(dim=1, keepdim=True)).chunk(2)
    middle = tensors.slerp(a, b, share)
    torch.testing.assert_close(middle.norm(dim=1), torch.full((2,), 16.0))

    def angle(x, y):
        return torch.acos((x * y).sum(1) / 256)

    torch.testing.assert_close(angle(a, middle), share * angle(a, b), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(angle(middle, b), (1 - share) * angle(a, b), rtol=1e-4, atol=1e-5)


def test_slerp_of_a_noise_with_itself_is_itself():
    a = tensors.noise([0], (4, 8, 8))
    torch.testing.assert_close(tensors.slerp(a, a.clone(), 0.3), a, rtol=1e-3, atol=1e-3)


def test_slerp_takes_each_picture_along_its_own_circle():
    a, b = tensors.noise([0, 1], (4, 8, 8)), tensors.noise([2, 3], (4, 8, 8))
    together = tensors.slerp(a, b, 0.4)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], tensors.slerp(a[i : i + 1], b[i : i + 1], 0.4))


@pytest.mark.parametrize(
    "size, padded", [((16, 24), (16, 24)), ((17, 24), (24, 24)), ((1, 9), (8, 16)), ((15, 31), (16, 32))]
)
def test_padding_repeats_the_last_row_and_column(size, padded):
    x = tensors.noise([0, 1], (3, *size))
    y = tensors.pad_to_multiple(x, 8)
    assert y.shape == (2, 3, *padded)
    # the clamped index of each place says which pixel it repeats
    down = torch.arange(padded[0]).clamp(max=size[0] - 1)
    across = torch.arange(padded[1]).clamp(max=size[1] - 1)
    assert torch.equal(y, x[..., down[:, None], across])
