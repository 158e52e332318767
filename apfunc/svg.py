"""Small plots as inline SVG: values over the night, one mark a frame, a colour a filter (`apfunc report`).

Text and marks take their colours from the page's CSS, so that they follow its light or dark scheme.
"""

import math

import numpy as np

from apfunc.names import band
from apfunc.page import safe_text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 190, 46, 12, 12, 26
SQUARE = 320
HUES = {"L": "l", "R": "r", "G": "g", "B": "b", "Ha": "ha", "OIII": "o3", "SII": "s2", "Hb": "b", "NII": "ha", "V": "g",
        "g": "g",
        "r": "r", "i": "s2", "z": "z", "u": "u", "U": "u", "I": "s2"}


def hue(name):
    """The CSS class of a filter's colour: f-r, f-ha, …; f-x for one that is not known."""
    return "f-" + HUES.get(band(name or ""), "x")


def order(name):
    """A key that sorts filters as astronomers list them: L R G B, then the narrow bands, then the rest by name."""
    known = "L R G B Ha NII SII OIII Hb u g r i z U V I".split()
    return known.index(band(name)) if band(name or "") in known else len(known), str(name)


def ticks(low, high, count=5):
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about `count` of them."""
    rough = (high - low) / max(count, 1)
    power = 10.0**math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def span(values, least):
    """The range of an axis: the values with a little room, at least `least` wide."""
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), (least - (high - low)) / 2, 1e-9 * max(abs(high), 1))
    return low - room, high + room


def clock(hours):
    """'23:30' of hours since the first midnight before the frames."""
    minutes = round(hours * 60)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def plot(points, label, unit="", least=0.0, floor=None, together=False):
    """The SVG text of a plot of `points`: dicts with x [hours, UT], y, filter, good (bool), text (tooltip), link.

    Points without a finite x or y are left out; '' when none is left.  The y range is at least `least` wide and not
    below `floor`.  Accepted frames are dots joined by lines, a filter a line (or all of them `together`, rejected ones
    too); rejected ones are crosses.
    """
    points = [p for p in points if all(isinstance(p[k], (int, float)) and math.isfinite(p[k]) for k in "xy")]
    if not points:
        return ""
    x0, x1 = span([p["x"] for p in points], 0.1)
    y0, y1 = span([p["y"] for p in points], least)
    y0 = y0 if floor is None else max(y0, floor)
    at_x = lambda x: LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    at_y = lambda y: HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    title = safe_text(f"{label} [{unit}]" if unit else label)
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title} over time">']
    for y in ticks(y0, y1):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>'
                     f'<text class="tick" x="{LEFT - 7}" y="{at_y(y) + 3.5:.1f}" text-anchor="end">{y:.6g}</text>')
    steps = [h for h in (1 / 60, 1 / 30, 1 / 12, 1 / 6, 1 / 4, 1 / 2, 1, 2, 3, 6) if (x1 - x0) / h <= 6.5] or [math.ceil((x1 - x0) / 6)]
    for i in range(math.ceil(x0 / steps[0]), math.floor(x1 / steps[0]) + 1):
        hour = i * steps[0]
        parts.append(f'<text class="tick" x="{at_x(hour):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{clock(hour)}</text>')
    groups = [points] if together else [[p for p in points if p["filter"] == f and p["good"]]
                                        for f in sorted({p["filter"] for p in points})]
    for group in groups:
        if len(group) > 1:
            path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in sorted((p["x"], p["y"]) for p in group))
            parts.append(f'<polyline class="join {"f-l" if together else hue(group[0]["filter"])}" points="{path}"/>')
    parts += [_mark(p, at_x(p["x"]), at_y(p["y"])) for p in sorted(points, key=lambda p: not p["good"])]
    return "".join(parts) + "</svg>"


def _mark(p, x, y):
    shape = (f'<circle class="dot {hue(p["filter"])}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' if p["good"] else
             f'<path class="cross {hue(p["filter"])}" d="M{x - 4:.1f},{y - 4:.1f}l8,8m0,-8l-8,8"/>')
    touch = f'<circle class="touch" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
    return f'<a href="#{safe_text(p["link"])}"><title>{safe_text(p["text"])}</title>{touch}{shape}</a>'


def legend(filters, rejected):
    """The key of the plots: a dot a filter, and the cross of rejected frames when there are any."""
    marks = [(f'<circle class="dot {hue(f)}" cx="6" cy="6" r="4"/>', f or "no filter") for f in filters]
    marks += [('<path class="cross" d="M2,2l8,8m0,-8l-8,8"/>', "rejected")] if rejected else []
    items = [f'<span><svg viewBox="0 0 12 12" aria-hidden="true">{mark}</svg>{safe_text(text)}</span>' for mark,
             text in marks]
    return f'<p class="legend">{"".join(items)}</p>'


def arrows(x, y, east, north, cells=8):
    """The SVG text of a frame's mean residuals in cells x cells parts of it: arrows, magnified; '' without three stars
    in any.  x, y: share of the frame, 0 to 1, y upwards; east, north [arcsec]; and the length of the longest arrow.

    An arrow points where the stars are measured to be, north up and east to the left.
    """
    known = np.isfinite(east) & np.isfinite(north)
    column, row = (np.clip((v[known] * cells).astype(int), 0, cells - 1) for v in (x, y))
    order = np.argsort(part := column * cells + row, kind="stable")
    places, first = np.unique(part[order], return_index=True)
    parts = np.split(np.stack([east, north])[:, known][:, order], first[1:], axis=1)
    mean = {divmod(int(p), cells): np.median(v, axis=1).tolist() for p, v in zip(places, parts) if v.shape[1] > 2}
    longest = max((math.hypot(*m) for m in mean.values()), default=0)
    if not longest:
        return "", 0
    side, out = SQUARE / cells, [_square("mean residuals over the frame")]
    for (column, row), (e, n) in sorted(mean.items()):
        u, v = -0.49 * side * e / longest, -0.49 * side * n / longest
        a, b = (column + 0.5) * side, SQUARE - (row + 0.5) * side
        out.append(f'<line class="arrow" x1="{a:.1f}" y1="{b:.1f}" x2="{a + u:.1f}" y2="{b + v:.1f}"/>'
                   f'<circle class="tip" cx="{a:.1f}" cy="{b:.1f}" r="2"/>')
    return "".join(out) + "</svg>", longest


def scatter(east, north, most=700):
    """The SVG text of residuals [arcsec] as points, north up and east to the left, with a circle that half of them are
    in; and the half width of the plot."""
    away = np.sort(np.hypot(east, north)).tolist()
    half, reach = away[len(away) // 2], max(1.15 * away[int(0.98 * (len(away) - 1))], 1e-6)
    at = lambda v: SQUARE / 2 * (1 + v / reach)
    out = [_square("residuals of the stars"), f'<path class="grid" d="M0,{SQUARE / 2}h{SQUARE}M{SQUARE / 2},0v{SQUARE}"/>']
    step = -(-len(east) // most)
    out += [f'<circle class="star" cx="{at(-e):.1f}" cy="{at(-n):.1f}" r="1.6"/>'
            for e, n in zip(east[::step].tolist(), north[::step].tolist()) if math.hypot(e, n) < reach]
    out.append(f'<circle class="half" cx="{SQUARE / 2}" cy="{SQUARE / 2}" r="{half / reach * SQUARE / 2:.1f}"/></svg>')
    return "".join(out), reach, half


def _square(label):
    return f'<svg class="plot" viewBox="0 0 {SQUARE} {SQUARE}" role="img" aria-label="{label}">'
