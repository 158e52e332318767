"""A frame that holds only a handful of catalogue stars, tied to the sky by pairs of them and weighed against chance.

Every pair of bright stars that is as far apart, and as different in brightness, as a pair of the catalogue is a
hypothesis (a similarity of either parity).  What speaks for one is counted in natural logarithms of odds:

    sum over catalogue stars in the frame of  ln[(1 - MISSED) f(d) / (area n(light))]  found within TOLERANCE, the
    defining pair left out, and of  ln MISSED  not found, or with stars as bright as the catalogue's that it has not;
    + ln prior(shift, turn) - ln(number of hypotheses)

f is how magnitudes scatter about the zero point, n(light) the density of stars as bright as the one found.  (After the
verification step of Lang et al. 2010, AJ 139, 1782, with brightness taken in, which tells most when stars are few.)
"""

import math

import numpy as np

from apfunc import wcs

TOLERANCE, SCATTER = 5.0, 0.5  # [pixel], [mag] of the zero point from star to star
MISSED, STRANGE = 0.15, 0.03  # shares of stars that have no counterpart, and of those with a wrong brightness
BRIGHT, NEAR, SHOWN = 15, 40, 80  # stars for pairs, catalogue stars, stars that may be found


def from_pairs(stars, catalog, reach=5.0, stretch=0.02, least=4.5):
    """(TAN solution, number of catalogue stars) of a list of stars (see tie.py), or None.

    `reach` [arcmin]: the largest error of the pointing, `stretch` that of the scale (a fraction); both must be known.
    The best hypothesis must have odds of e^least, and e^3 times those of any other place.
    """
    mag = np.asarray(catalog["mag"], float)
    if stars["pointing"] is None or stars["scale"] is None:
        return None
    (rows, columns), unit = stars["shape"], stars["scale"] / 3600
    middle, half = ((columns - 1) / 2, (rows - 1) / 2), 0.5 * math.hypot(rows, columns)
    xi, eta = wcs.project(catalog["ra"], catalog["dec"], stars["pointing"])
    near = np.flatnonzero((np.hypot(xi, eta) < half * unit + reach / 60) & np.isfinite(mag))
    near = near[np.argsort(mag[near], kind="stable")][:NEAR]
    bright = np.argsort(-stars["flux"], kind="stable")[:SHOWN]
    if len(near) < 2 or len(bright) < 2:
        return None
    z = stars["x"][bright] - middle[0] + 1j * (stars["y"][bright] - middle[1])
    light, sky, mag = -2.5 * np.log10(stars["flux"][bright]), (xi[near] + 1j * eta[near]) / unit, mag[near]
    reach = reach / 60 / unit
    guesses = [_hypotheses(z if parity > 0 else z.conj(), light, sky, mag, reach, stretch) for parity in (1, -1)]
    trials, ranked = sum(len(a) for a, _ in guesses), []
    for parity, (a, c) in zip((1, -1), guesses):
        w = z if parity > 0 else z.conj()
        frame = (columns / 2, rows / 2), unit, reach
        odds = _odds(w, light, sky, mag, a, c, *frame)[0] - math.log(max(trials, 1))
        for k in np.argsort(-odds, kind="stable")[:20]:
            ranked.append(_settled(w, light, sky, mag, a[k], c[k], *frame, trials, parity))
    ranked.sort(key=lambda r: (-r[0], r[1].real, r[1].imag))
    best = ranked[0] if ranked else None
    if best is None or best[0] < least:
        return None
    odds, a, c, parity, i, j = best
    if any(r[0] > odds - 3 and (r[3] != parity or abs(r[2] - c) + half * abs(r[1] - a) > 20) for r in ranked[1:]):
        return None
    matrix = np.array([[a.real, -parity * a.imag], [a.imag, parity * a.real]])
    crval = wcs.deproject(c.real * unit, c.imag * unit, stars["pointing"])
    solution = {"crval": tuple(float(v) for v in crval), "crpix": middle, "cd": matrix * unit, "a": None, "b": None}
    return solution, len(i)


def _hypotheses(w, light, sky, mag, reach, stretch):
    """The similarities a, c (sky = a w + c) of all pairs that are alike in distance (stretch) and brightness (1.5 mag)
    and put the frame's centre (w = 0) within `reach` of the pointing (sky = 0)."""
    i, j = np.triu_indices(min(len(w), BRIGHT), 1)
    k, m = (index.ravel() for index in np.nonzero(~np.eye(len(sky), dtype=bool)))
    apart, wide = np.abs(w[j] - w[i]), np.abs(sky[m] - sky[k])
    fits = np.abs(np.log(np.maximum(wide, 1e-9)[None] / np.maximum(apart, 1e-9)[:, None])) < math.log(1 + stretch)
    fits &= (np.abs((mag[m] - mag[k])[None] - (light[j] - light[i])[:, None]) < 1.5) & (apart > 30)[:, None]
    p, q = np.nonzero(fits)
    a = (sky[m[q]] - sky[k[q]]) / (w[j[p]] - w[i[p]])
    c = sky[k[q]] - a * w[i[p]]
    near = np.abs(c) < reach
    return a[near], c[near]


def _odds(w, light, sky, mag, a, c, half, unit, reach):
    """ln odds of hypotheses (without the trials), and for each the star found for each catalogue star (-1: none)."""
    odds, found = np.zeros(len(a)), np.full((len(a), len(sky)), -1)
    crowd = (np.abs(light[:, None] - light[None]) < 0.75).sum(axis=1) - 0.5
    density = crowd / 1.5 / (4 * half[0] * half[1])
    earlier = np.tri(len(sky), k=-1, dtype=bool)
    for s in range(0, len(a), 200):
        there = (sky[None] - c[s:s + 200, None]) / a[s:s + 200, None]
        gap = np.abs(there[:, :, None] - w[None, None])
        inside = (np.abs(there.real) < half[0] - 8) & (np.abs(there.imag) < half[1] - 8)
        star = np.where(gap.min(axis=2) < TOLERANCE, gap.argmin(axis=2), -1)
        star[((star[:, :, None] == star[:, None]) & earlier).any(axis=2)] = -1  # of a double the brighter has it
        seen = star >= 0
        difference = np.where(seen, mag[None] - light[star], np.nan)
        zero = np.nanmedian(np.where(seen.any(axis=1)[:, None], difference, 0), axis=1)[:, None]
        off = np.where(seen, difference - zero, 0)
        likely = (1 - STRANGE) * np.exp(-0.5 * (off / SCATTER)**2) / (SCATTER * math.sqrt(2 * math.pi)) + 0.1 * STRANGE
        gain = np.where(seen, np.log((1 - MISSED) * likely / (math.pi * TOLERANCE**2 * density[star])), 0)
        lost = (inside & ~seen & (mag[None] - zero < light.max() - 0.5)).sum(axis=1)
        told = light[None] + zero  # the magnitudes of the stars: the catalogue should have those in its range
        told = (told > mag.min()) & (told < mag.max() - 1)
        np.put_along_axis(told, np.where(seen, star, star.max(axis=1)[:, None]), False, axis=1)
        two = -np.sort(-gain, axis=1)[:, :2].sum(axis=1)  # the pair itself proves nothing
        odds[s:s + 200] = gain.sum(axis=1) - two + math.log(MISSED) * (lost + told.sum(axis=1))
        found[s:s + 200] = star
    return odds + _prior(a, c, unit, reach), found


def _prior(a, c, unit, reach):
    """ln of how much likelier than anywhere within reach, and any turn, telescopes look where and as they do: pointing
    errors of half an arcminute or three, cameras turned by a multiple of 90 degrees within a degree, or any."""
    moved, full = np.abs(c) * unit * 60, reach * unit * 60
    near = sum(0.45 * np.exp(-0.5 * (moved / s)**2) / (2 * s**2) for s in (0.5, 3.0)) * full**2 + 0.1
    turn = np.abs((np.degrees(np.angle(a)) + 45) % 90 - 45)
    return np.log(near) + np.log(0.7 * 90 / math.sqrt(2 * math.pi) * np.exp(-0.5 * turn**2) + 0.3)


def _settled(w, light, sky, mag, a, c, half, unit, reach, trials, parity):
    """A hypothesis after two fits of all that it explains: (odds, a, c, parity, catalogue stars, stars)."""
    for _ in range(2):
        odds, found = _odds(w, light, sky, mag, np.array([a]), np.array([c]), half, unit, reach)
        i = np.flatnonzero(found[0] >= 0)
        j = found[0][i]
        if len(i) < 2 or len(set(j.tolist())) < 2:
            return -math.inf, a, c, parity, i, j
        d, big_d = w[j] - w[j].mean(), sky[i] - sky[i].mean()
        a = complex((d.conj() @ big_d) / (d.conj() @ d).real)
        c = complex(sky[i].mean() - a * w[j].mean())
    odds, found = _odds(w, light, sky, mag, np.array([a]), np.array([c]), half, unit, reach)
    i = np.flatnonzero(found[0] >= 0)
    return float(odds[0]) - math.log(max(trials, 1)), a, c, parity, i, found[0][i]
