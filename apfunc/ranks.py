"""Ranks and medians of a stack of frames, pixel by pixel, by a sorting network over the frames."""

import functools

import numpy as np

LOW = 4  # of two or four values the lower middle one stands for the median


def rank(values, good):
    """The values sorted along the first axis, those not good at the end as infinity; and the number of good ones."""
    lanes = [np.where(g, v, np.float32(np.inf)) for v, g in zip(values, good)]
    for i, j in network(len(lanes)):
        lanes[i], lanes[j] = np.minimum(lanes[i], lanes[j]), np.maximum(lanes[i], lanes[j])
    return lanes, good.sum(0, dtype="u1" if len(good) < 256 else "u4")


@functools.cache
def network(n):
    """Compare-exchange pairs that sort n lanes: Batcher's odd-even merge sort (Knuth, TAOCP 3, 5.2.2 M)."""
    pairs, p = [], 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs += [(i + j, i + j + k) for i in range(min(k, n - j - k))
                          if (i + j) // (2 * p) == (i + j + k) // (2 * p)]
            k //= 2
        p *= 2
    return pairs


@functools.cache
def halved(n):
    """What of `network` the middle lanes need: (i, j, whether the smaller is needed, whether the larger is)."""
    needed, steps = {(n - 1) // 2, n // 2 if n > LOW else (n - 1) // 2}, []
    for i, j in reversed(network(n)):
        if i in needed or j in needed:
            steps.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return steps[::-1]


def median(ranked, count):
    """Median of `count` sorted values (see LOW), 0 of none."""
    ranked, c = np.stack(ranked), count.astype(np.intp)
    lower = np.maximum(c - 1, 0) // 2
    one, two = (np.take_along_axis(ranked, i[None], 0)[0] for i in (lower, np.where(c > LOW, c // 2, lower)))
    return np.where(c > 0, (one + two) / 2, np.float32(0))
