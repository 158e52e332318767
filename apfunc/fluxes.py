"""The fluxes of a field's stars on one scale a filter, and the magnitude that goes with it."""

import math

import numpy as np

from apfunc.register import DIRTY, SATURATED


def fluxes(registered, frames, n):
    """Median flux [adu/s] of each star in each filter, on the scale of its most transparent frame, and their meta."""
    columns, meta = {}, {}
    for k, name in enumerate(sorted({f["filter"] for f in registered})):
        mine = [f for f in registered if f["filter"] == name]
        rates = np.full((len(mine), n), np.nan)
        for row, f in zip(rates, mine):
            clean = (f["flags"] & (SATURATED | DIRTY)) == 0
            row[f["star"][clean]] = f["flux"][clean] / f["exptime"]
        ratio, error = np.ones(len(mine)), np.zeros(len(mine))
        for r, row in enumerate(rates[1:], 1):
            both = np.isfinite(row) & np.isfinite(rates[0])
            brightest = np.flatnonzero(both)[np.argsort(-rates[0][both], kind="stable")][:100]
            each = row[brightest] / rates[0][brightest]
            ratio[r], error[r] = (np.median(each), np.std(each) / len(each)**0.5) if len(each) > 2 else (1.0, np.inf)
        best = np.argmax(ratio - 2 * error)  # of few faint stars the largest ratio would be one of chance
        rates *= (ratio[best] / ratio)[:, None]
        some = np.isfinite(rates).any(axis=0)
        columns[name] = np.full(n, np.nan)
        columns[name][some] = np.nanmedian(rates[:, some], axis=0)
        exposures = sorted(round(f["exptime"], 3) for f in frames if f["filter"] == name)
        meta[f"FILT{k + 1}"] = name
        meta[f"EXPR{k + 1}"] = max(set(exposures), key=lambda e: (exposures.count(e), e))
        meta[f"NSEL{k + 1}"] = len(mine)
    return columns, meta


COLOURS, WORTH = 0.15, 3  # [mag] scatter that stars' colours make between two bands; as how many stars it counts


def zero_point(meta, k, mag, flux):
    """MZPTk, MZPEk: magnitude of 1 adu/s from the stars with a magnitude and an unsaturated flux (3 at least), clipped.

    The error is that of a median; its scatter is the stars' own, with COLOURS as a prior, for three stars that agree by
    chance prove nothing."""
    both = np.isfinite(mag) & np.isfinite(flux) & (flux > 0)
    if both.sum() < 3:
        return
    zero = mag[both] + 2.5 * np.log10(flux[both])
    middle = np.median(zero)
    spread = max(1.4826 * np.median(np.abs(zero - middle)), 0.02)
    zero = zero[np.abs(zero - middle) < 3 * spread]
    meta[f"MZPT{k}"] = float(np.mean(zero)) if len(zero) < 5 else float(np.median(zero))
    scatter = math.sqrt((np.sum((zero - zero.mean())**2) + WORTH * COLOURS**2) / (len(zero) - 1 + WORTH))
    meta[f"MZPE{k}"] = float((1.0 if len(zero) < 5 else 1.2533) * scatter / math.sqrt(len(zero)))
