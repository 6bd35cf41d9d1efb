"""What can be done to the tokens of a picture by hand: maps `(h, w)` of codes in, new maps out. Needs no torch."""

import numpy as np

from engines.errors import BadRequest


def paint(tokens, cells, code):
    """`tokens` with `code` at each of `cells`, pairs of row and column; cells outside are passed over."""
    painted = tokens.copy()
    painted[_mask(tokens, cells)] = code
    return painted


def fill(tokens, cell, code):
    """`tokens` with `code` in the whole region of equal tokens, side by side, that `cell` lies in."""
    filled, old, waiting = tokens.copy(), tokens[cell], [cell]
    if old == code:
        return filled
    while waiting:
        row, column = waiting.pop()
        inside = 0 <= row < tokens.shape[0] and 0 <= column < tokens.shape[1]
        if inside and filled[row, column] == old:
            filled[row, column] = code
            waiting += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return filled


def swap(tokens, others, cells):
    """Both maps with their tokens exchanged at `cells`. Raises `BadRequest` unless they are of one size."""
    _check_sizes(tokens, others)
    mask = _mask(tokens, cells)
    return np.where(mask, others, tokens), np.where(mask, tokens, others)


def mix(tokens, others, share, seed=0):
    """`tokens` with that `share` of its places, drawn by `seed`, taken from `others`.

    A larger share takes the places of a smaller one and more. Raises `BadRequest` unless both are of one size.
    """
    _check_sizes(tokens, others)
    order = np.random.default_rng(seed).permutation(tokens.size).reshape(tokens.shape)
    return np.where(order < round(share * tokens.size), others, tokens)


def windows(mask, side):
    """Windows of at most `side x side` that together hold all of `mask (h, w)`, each with something around it.

    A list of pairs: the window as two slices, and the mask of what is to be settled there, which no other
    window settles. A map that a window holds whole has one.
    """
    found, left = [], mask.copy()
    # what one window settles: less than it sees, unless it sees all
    reach = [length if length <= side else max(1, 3 * side // 4) for length in mask.shape]
    while left.any():
        top = np.nonzero(left.any(1))[0][0]
        edge = np.nonzero(left[top : top + reach[0]].any(0))[0][0]
        now = np.zeros_like(left)
        part = slice(top, top + reach[0]), slice(edge, edge + reach[1])
        now[part] = left[part]
        window = tuple(
            _around(np.nonzero(now.any(1 - axis))[0], side, length) for axis, length in enumerate(mask.shape)
        )
        found.append((window, now[window]))
        left &= ~now
    return found


def _around(places, side, length):
    # `side` places with those given in the middle, as far as the map goes
    start = (int(places[0]) + int(places[-1]) + 1 - side) // 2
    start = min(max(start, 0), max(length - side, 0))
    return slice(start, min(start + side, length))


def _mask(tokens, cells):
    mask = np.zeros(tokens.shape, bool)
    for row, column in cells:
        if 0 <= row < tokens.shape[0] and 0 <= column < tokens.shape[1]:
            mask[row, column] = True
    return mask


def _check_sizes(tokens, others):
    if tokens.shape != others.shape:
        sizes = [f"{wide}x{high}" for high, wide in (tokens.shape, others.shape)]
        raise BadRequest(
            f"One picture has {sizes[0]} tokens and the other {sizes[1]}; take two of the same size."
        )
