"""Windows: they cover, they share, and what they agree on is the answer for the whole."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from engines.diffusion import windows
from engines.diffusion.windows import AT_ONCE, boxes, fused


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(2, 20), st.floats(0, 0.75)
)  # fmt: skip
def test_windows_of_one_size_cover_the_map_and_share_what_is_asked(height, width, size, overlap):
    seen = torch.zeros(height, width)
    found = boxes(height, width, size, overlap)
    for top, left, bottom, right in found:
        assert (bottom - top, right - left) == (min(size, height), min(size, width))
        assert top >= 0 and left >= 0 and bottom <= height and right <= width
        seen[top:bottom, left:right] += 1
    assert (seen > 0).all()
    lefts = sorted({left for _, left, _, _ in found})
    for one, other in itertools.pairwise(lefts):
        assert one + size - other >= int(size * overlap) - 1  # of rounding


def test_what_all_windows_agree_on_is_the_whole():
    x = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(lambda rows: 2 * rows, x, 16, 0.5), 2 * x)


def test_maps_that_grow_and_shrink_lie_where_they_belong():
    x = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    larger = fused(lambda rows: F.interpolate(rows, scale_factor=4), x, 10, 0.3, given=4)
    torch.testing.assert_close(larger, F.interpolate(x, scale_factor=4))
    smaller = fused(lambda rows: F.avg_pool2d(rows, 4), larger, 10, 0.3, taken=4)
    torch.testing.assert_close(smaller, x)


def test_where_windows_differ_their_mean_counts_with_less_at_their_edges(monkeypatch):
    x = torch.randn(2, 1, 9, 21, generator=torch.Generator().manual_seed(0))

    def net(rows):  # which answers otherwise in each window
        return rows * rows.mean((1, 2, 3), keepdim=True)

    together = fused(net, x, 8, 0.5)
    # the same by the definition, window after window and place after place
    weight = [torch.sin(torch.tensor(torch.pi * (i + 0.5) / 8)) ** 2 for i in range(8)]
    above, below = torch.zeros_like(x), torch.zeros_like(x)
    for top, left, bottom, right in boxes(9, 21, 8, 0.5):
        made = net(x[..., top:bottom, left:right])
        for row in range(bottom - top):
            for column in range(right - left):
                above[..., top + row, left + column] += weight[row] * weight[column] * made[..., row, column]
                below[..., top + row, left + column] += weight[row] * weight[column]
    torch.testing.assert_close(together, above / below)
    monkeypatch.setattr(windows, "AT_ONCE", 1)
    torch.testing.assert_close(fused(net, x, 8, 0.5), together)


@pytest.mark.parametrize("width", [8, 20, 44])
def test_a_net_is_always_given_as_many_rows(width):
    seen = []
    fused(lambda rows: seen.append(len(rows)) or rows, torch.zeros(3, 1, 8, width), 8, 0.5)
    assert set(seen) == {3 * windows.windows_at_once(8, width, 8, 0.5)} and max(seen) <= 3 * AT_ONCE
