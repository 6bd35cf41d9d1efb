"""A net that works at one size on pictures of any: window by window, and the mean of what all of them say."""

import torch

AT_ONCE = 4  # windows that a net is given together


def boxes(height, width, size, overlap):
    """Windows that cover a map, as `(top, left, bottom, right)`, of `size` a side or less where the map is smaller.

    Neighbours share at least the part `overlap` in [0, 1) of a side.
    """
    return [
        (top, left, top + min(size, height), left + min(size, width))
        for top in _starts(height, size, overlap)
        for left in _starts(width, size, overlap)
    ]


def _starts(length, size, overlap):
    # spread evenly, so that all neighbours share alike
    if length <= size:
        return [0]
    stride = max(1, int(size * (1 - overlap)))
    count = -(-(length - size) // stride)
    return [round(index * (length - size) / count) for index in range(count + 1)]


def fused(function, x, size, overlap, taken=1, given=1, margin=0, at_once=None):
    """The result of `function` on `x (B, C, H, W)` as if it saw all of it, where it sees windows of `size` a side.

    At each step of the diffusion the answers of all windows are averaged where they overlap (Bar-Tal et al.,
    2023, MultiDiffusion, eq. 5), each with less weight towards its edges (Jiménez, 2023, Mixture of Diffusers).
    `function` takes `(N B, C, h, w)`, the rows of several windows one after the other, always of the same `N`.
    Sides of windows are counted in places, each `taken` wide in `x` and `given` wide in the result. What lies within
    `margin` places of an edge that is not the map's counts for nothing: where a place of the result depends on no more
    than `margin` places round it, that is exact. It needs an `overlap` of more than two margins. The net is given
    `at_once` windows together, or `AT_ONCE`.
    """
    height, width = (side // taken for side in x.shape[2:])
    places = boxes(height, width, size, overlap)
    if len(places) == 1:
        return function(x)
    many = windows_at_once(height, width, size, overlap, at_once)
    total = weights = None
    for first in range(0, len(places), many):
        now = places[first : first + many]
        stack = [x[_within(box, taken)] for box in now]
        stack += stack[-1:] * (many - len(now))
        for box, made in zip(now, function(torch.cat(stack)).split(len(x))[: len(now)], strict=True):
            if total is None:
                total = made.new_zeros(*made.shape[:2], height * given, width * given)
                weights = torch.zeros_like(total[:1, :1])
            weight = _weight(box, (height, width), margin, given).to(made)
            total[_within(box, given)] += weight * made
            weights[_within(box, given)] += weight
    return total / weights


def _within(box, times):
    top, left, bottom, right = (times * place for place in box)
    return ..., slice(top, bottom), slice(left, right)


def windows_at_once(height, width, size, overlap, at_once=None):
    """How many windows of a map `fused` gives to a net together."""
    return min(at_once or AT_ONCE, len(boxes(height, width, size, overlap)))


def _weight(box, lengths, margin, given):
    # of each pixel that a window gives, of a map of those lengths
    top, left, bottom, right = box
    down, across = (
        _hill(given * (end - begin), *(given * margin * inner for inner in (begin > 0, end < length)))
        for begin, end, length in ((top, bottom, lengths[0]), (left, right, lengths[1]))
    )
    return down[:, None] * across


def _hill(length, before, after):
    # 0 in what lies before and after it
    place, span = torch.arange(length) + 0.5 - before, length - before - after
    return torch.where((place > 0) & (place < span), torch.sin(torch.pi * place / span) ** 2, 0)
