"""From linear light to a picture: the curve, and how it finds itself.

    shown = sky + slope * I                          for faint light I above the sky
    shown = sky + scale * asinh(I / soft)            for all: Lupton et al. (2004, PASP 116, 133)

Every colour is multiplied by the same shown(I) / I, which keeps its hue.
"""

import numpy as np

SKY = 0.09  # shown level of the sky: dark, a little above black
GRAIN = (0.007, 0.026)  # shown noise of a sky pixel: the least and the most that a curve is made for
NEBULA = 0.5  # shown level that the brighter parts of a nebula are brought to, noise permitting


def curve(sample, noise, soft=None, white=None, strength=1.0):
    """(soft, scale, white): the arcsinh curve for intensities of which `sample` is a fair part, their sky at zero.

    sample  2-D, every n-th pixel of the intensity, or blocks of it; NaN is left out.  noise: of a sky pixel.
    soft    intensity below which the curve is straight; white: intensity that is shown white.  Where they are None
            they are found: white is what one pixel in 30,000 exceeds, soft is such that the noise of the sky is
            shown with an amplitude within GRAIN and, within that, the brighter parts of extended light at NEBULA.
    strength  more than 1 shows more of what is faint, less than 1 less.
    """
    values = sample[np.isfinite(sample)]
    if not values.size:
        return 1.0, 1 - SKY, 1.0
    noise = float(noise) if noise and np.isfinite(noise) and noise > 0 else max(float(np.ptp(values)) / 1000, 1e-30)
    white = float(white) if white is not None else max(float(np.quantile(values, 1 - 3e-5)), 40 * noise)
    if soft is None:
        least, most = (_soft(lambda soft: noise / soft * _scale(soft, white), grain * strength, white)
                       for grain in GRAIN[::-1])
        light = _extended(sample)
        soft = most
        if light > 0.3 * noise:
            soft = _soft(lambda soft: _scale(soft, white) * np.arcsinh(light / soft), min(NEBULA * strength, 0.8),
                         white)
        soft = float(np.clip(soft, least, most))
    return float(soft), _scale(soft, white), white


def _scale(soft, white):
    return float((1 - SKY) / np.arcsinh(white / soft))


def _soft(shown, wanted, white):
    """The softening at which shown(soft), which falls with it, is `wanted`; by bisection of its logarithm."""
    low, high = np.log(white * 1e-7), np.log(white * 100)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if shown(np.exp(middle)) > wanted else (low, middle)
    return float(np.exp(middle))


def _extended(sample):
    """Brightness of the brighter extended light: the 97th percentile of the medians of blocks."""
    found = blocks(sample)
    return float(np.quantile(found, 0.97)) if found.size else 0.0


def blocks(sample, side=8):
    """Medians of the blocks of side x side pixels that hold no NaN, 1-D."""
    rows, columns = (n // side for n in sample.shape)
    cut = sample[:rows * side, :columns * side].reshape(rows, side, columns, side)
    cut = cut.transpose(0, 2, 1, 3).reshape(rows * columns, side**2)
    return np.median(cut[np.isfinite(cut).all(1)], axis=1)


def factor(light, soft, scale):
    """shown / I without the sky's pedestal: what to multiply linear light by; finite at zero, float32."""
    ratio = np.maximum(np.abs(light) / np.float32(soft), np.float32(1e-3))
    return np.arcsinh(ratio) / ratio * np.float32(scale / soft)
