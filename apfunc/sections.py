"""The sections of the report, each a piece of HTML, '' when it has nothing to show.

`lights` are rows of `report.light_rows`, `stock` the rows of the inventory; the rest is as `report.report` says.
"""

import re

from apfunc import svg
from apfunc.header import number
from apfunc.page import (base_name, common_start, count, exposure, finite, fixed, href, image, median, safe_text, short,
                         table, with_error)

DENSE = 60  # lights from which on their pictures are smaller
KINDS = {"composite": "Colour composite", "coadd": "Stack", "continuum": "Line image, continuum subtracted"}
PLOTS = (("fwhm_arcsec", "Seeing, FWHM", "arcsec", 0.5, 0), ("fwhm_px", "FWHM", "pixel", 0.5, 0),
         ("ellipticity", "Ellipticity", "", 0.05, 0), ("sky", "Sky", "adu", 5, None),
         ("transparency", "Transparency", "", 0.1, 0), ("airmass", "Airmass", "", 0.1, None),
         ("nstars", "Stars found", "", 10, 0), ("temp", "Sensor temperature", "°C", 0.5, None),
         ("focus", "Focuser position", "steps", 10, None),
         ("wcs_rms_arcsec", "Astrometric residual, rms", "arcsec", 0.05, 0), ("wcs_nmatch", "Matched stars", "", 10, 0))
COLUMNS = (("airmass", "airmass", 3), ("fwhm_px", "FWHM [px]", 2), ("fwhm_arcsec", 'FWHM ["]', 2),
           ("ellipticity", "ellipticity", 3), ("nstars", "stars", 0), ("sky", "sky [adu]", 1),
           ("noise", "noise [adu]", 2), ("transparency", "transparency", 3), ("weight", "weight", 3))


def facts(lights, masters):
    """The night in six numbers."""
    good = [r for r in lights if r["good"]]
    filters = sorted({r["filter"] for r in lights if r["filter"]}, key=svg.order)
    said = [(f"{len(good)} of {len(lights)}", "lights accepted"),
            (exposure(sum(r.get("exptime") or 0 for r in good)), "accepted exposure"),
            (", ".join(filters) or "–", "filters"),
            (fixed(median(r.get("fwhm_arcsec") for r in good), 2, '"'), "median FWHM"),
            (fixed(median(r.get("wcs_rms_arcsec") for r in good), 3, '"'), "astrometric rms"),
            (str(len(masters)), "masters")]
    cells = "".join(f"<div><b>{safe_text(v)}</b><span>{safe_text(k)}</span></div>" for v, k in said if v != "–")
    return f'<div class="facts">{cells}</div>'


def warned(told):
    """The warnings as a list in a box."""
    if not told:
        return ""
    items = "".join(f"<li>{safe_text(t)}</li>" for t in told)
    return f'<div class="warnings" role="note"><h2>Worth knowing ({len(told)})</h2><ul>{items}</ul></div>'


def pictures(given):
    """Composites large, then line images and stacks."""
    made = [p for p in given if not p.get("reason")]
    made.sort(key=lambda p: (p["kind"] == "coadd", svg.order((p.get("header") or {}).get("FILTER", "")), p["name"]))
    colour, rest = ([p for p in made if (p["kind"] == "composite") == hero] for hero in (True, False))
    beside = []
    if len(colour) == 1 and len(rest) > 1:  # a large picture, and two small ones beside it
        beside, rest = rest[:2], rest[2:]
    hero = "".join(map(_picture, colour)) + (f'<div>{"".join(map(_picture, beside))}</div>' if beside else "")
    groups = (("grid hero" + " one" * bool(beside), hero), ("grid", "".join(map(_picture, rest))))
    return "".join(f'<div class="{style}">{some}</div>' for style, some in groups if some)


def _picture(p):
    header = p.get("header") or {}
    known = lambda key: number(header, key) is not None
    said = [count(header["NCOMBINE"], "frame") if header.get("NCOMBINE") else None, exposure(number(header, "EXPTIME")),
            f"FWHM {fixed(number(header, 'FWHM'), 2)} px" if known("FWHM") else None,
            f"zero point {fixed(number(header, 'MAGZP'), 2)}" if known("MAGZP") else None,
            f"continuum × {fixed(header['CONTSCAL'], 4)}" if known("CONTSCAL") else None,
            f"± {fixed(header['CONTSERR'], 4)}" if known("CONTSERR") else None,
            f"stars left {abs(100 * header['CONTRESI']):.1f} %" if known("CONTRESI") else None]
    said = safe_text(" · ".join(s for s in said if s)).replace(" · ±", " ±")
    colours = p.get("said") or ""
    said = said or safe_text(colours)
    kind = "Picture of one filter" if colours and "," not in colours.split(";")[0] else KINDS.get(p["kind"], "")
    files = " · ".join(f'<a href="{href(link)}">{safe_text(label)}</a>' for label, link in p.get("files", ()))
    lines = "<br>".join(t for t in (said, files) if t)
    return _card(image(p.get("thumb"), p["name"], p.get("full")), f'<b>{safe_text(p["name"])}</b> '
                 f'<span class="soft">{kind}</span><br>{lines}')


def _card(picture, caption, style="", name=""):
    named = f' id="{name}"' if name else ""
    return f'<figure class="card {style}"{named}>{picture}<figcaption>{caption}</figcaption></figure>'


def strip(lights):
    """Every light: what it looks like, its verdict and why."""
    cards = []
    for r in lights:
        line = [exposure(r.get("exptime")), None if r["hours"] is None else svg.clock(r["hours"]),
                f'{fixed(r.get("fwhm_arcsec"), 1)}"' if finite(r.get("fwhm_arcsec")) else None]
        verdict, style = safe_text(r.get("verdict") or "not judged"), "accept" if r["good"] else "reject"
        reason = f"{safe_text(r['reason'])}<br>" if r.get("reason") else ""
        filter = f'<span class="filter {svg.hue(r["filter"])}">{safe_text(r["filter"])}</span>'
        cards.append(_card(image(r["thumb"], r["name"], r["href"]),
                           f'<span class="pill {style}">{verdict}</span> {filter} '
                           f'{safe_text(" · ".join(s for s in line if s))}<br>{reason}'
                           f'<span class="soft">{safe_text(r["short"])}</span>',
                           f"{style}ed", r["id"]))
    start = common_start([r["name"] for r in lights])
    begins = f'<p class="soft">Names are shown without their common beginning {safe_text(start)}</p>' if start else ""
    style = "strip dense" if len(cards) > DENSE else "strip"
    return f'{begins}<div class="{style}">{"".join(cards)}</div>' if cards else ""


def plots(lights):
    """What changed over the night."""
    cards = []
    arcsec = any(finite(r.get("fwhm_arcsec")) for r in lights)
    for key, label, unit, least, floor in PLOTS:
        if key == "fwhm_px" and arcsec:
            continue
        points = [{"x": r["hours"], "y": r.get(key), "filter": r["filter"], "good": r["good"], "link": r["id"],
                   "text": f"{r['name']}: {fixed(r.get(key), 3)} {unit}"
                   + ("" if r["good"] else f" · {r.get('reason') or 'not accepted'}")}
                  for r in lights]
        drawn = svg.plot(points, label, unit, least, floor, together=key in ("airmass", "temp", "focus"))
        if drawn:
            cards.append(f'<div class="card"><h3>{label} <span>{unit}</span></h3>{drawn}</div>')
    key = svg.legend(sorted({r["filter"] for r in lights}, key=svg.order), any(not r["good"] for r in lights))
    return f'{key}<div class="plots">{"".join(cards)}</div>' if cards else ""


def astrometry(lights, frames, residuals=None):
    """How well each light is tied to the sky, and where its stars lie off their places in the field catalogue."""
    rows = []
    for r in lights:
        header = frames.get(r["name"], {}).get("header") or {}
        if finite(r.get("wcs_rms_arcsec")) or header.get("WCSSRC"):
            tied = str(header.get("WCSSRC", "–"))
        else:
            tied = f"not solved: {r.get('reason') or 'no reason given'}"
        rows.append([r["short"], r["filter"], fixed(r.get("wcs_rms_arcsec"), 3), fixed(number(header, "WCSRMSPX"), 3),
                     fixed(r.get("wcs_nmatch"), 0), fixed(number(header, "PIXSCALE"), 4), tied])
    heads = ("light", "filter", 'rms ["]#', "rms [px]#", "matches#", 'scale ["/px]#', "tied to")
    return _off(residuals) + (folded(table(heads, rows), len(rows)) if rows else "")


def _off(residuals):
    """Plots of the residuals: over the frame, and of the single stars."""
    if not residuals or len(residuals["x"]) < 3:
        return ""
    drawn, longest = svg.arrows(**residuals)
    points, reach, half = svg.scatter(residuals["east"], residuals["north"])
    away = f'half of them within {fixed(half, 3)}" (circle); the plot is {fixed(2 * reach, 2)}" wide'
    cards = [("Over the frame", drawn, f'median of the stars there, magnified; the longest arrow is {fixed(longest, 3)}"'),
             ("Single stars", points, away)]
    cards = "".join(f'<div class="card"><h3>{title} <span>north up, east left</span></h3>{plot}'
                    f'<p class="soft">{said}</p></div>'
                    for title, plot, said in cards if plot)
    return f'<div class="plots squares">{cards}</div>'


def folded(content, count, most=40):
    """A long table behind a line to open it by."""
    return f"<details><summary>All {count} lights</summary>{content}</details>" if count > most else content


def quality(lights):
    """The quality table."""
    rows = [[r["short"], r["filter"], r.get("verdict") or "–", r.get("reason") or "",
             exposure(r.get("exptime")) or "–", *[fixed(r.get(key), digits) for key, _, digits in COLUMNS]]
            for r in lights]
    heads = ("light", "filter", "verdict", "reason", "exposure#", *[f"{label}#" for _, label, _ in COLUMNS])
    return folded(table(heads, rows), len(rows)) if rows else ""


def detector(readnoise, badpix):
    """Gain and read noise of each camera, and its bad pixels."""
    rows = [[str(r.get("camera") or ""), with_error(r, "gain", 3), with_error(r, "readnoise", 2),
             fixed(r.get("nbias"), 0),
             fixed(r.get("nflat"), 0)] for r in readnoise]
    out = table(("camera", "gain [electron/adu]#", "read noise [electron]#", "biases#", "flats#"), rows) if rows else ""
    cards = []
    for b in badpix:
        said = " · ".join(f"{n:,} {kind.lower()}" for kind, n in b["counts"].items() if n) or "none found"
        share = f"<br>{100 * b['bad'] / b['pixels']:.3f} % of the sensor" if b.get("pixels") else ""
        name = f'<span class="soft">{safe_text(b["name"])}</span>'
        cards.append(_card(image(b.get("thumb"), b["name"], b.get("href")),
                           f"<b>Bad pixels</b> {name}<br>{safe_text(said)}{share}"))
    return out + (f'<div class="grid">{"".join(cards)}</div>' if cards else "")


def cards(header, prefix):
    """The values of the numbered keywords EXC001, EXC002, … of a header."""
    return [str(header[k]) for k in sorted(header) if re.fullmatch(prefix + r"\d+", k)] if header else []


def masters(given):
    """Each master with its statistics and the frames that were left out of it."""
    out = []
    for m in given:
        h = m.get("header") or {}
        known = lambda key: number(h, key) is not None
        said = [count(h["NCOMBINE"], "frame") if h.get("NCOMBINE") else None, exposure(number(h, "EXPTIME")),
                f"{fixed(number(h, 'CCD-TEMP'), 1)} °C" if known("CCD-TEMP") else None,
                f"median {short(m.get('median'))}, scatter {short(m.get('std'))}" if finite(m.get("median")) else None,
                f"noise {short(number(h, 'NOISE'))}" if known("NOISE") else None,
                f"clipped {100 * number(h, 'REJFRAC'):.2f} %" if known("REJFRAC") else None,
                f"level {short(number(h, 'FLATNORM'))} adu" if known("FLATNORM") else None]
        left = "".join(f'<br><span class="pill reject">left out</span> {safe_text(t)}' for t in cards(h, "EXC"))
        out.append(_card(image(m.get("thumb"), m["name"], m.get("href")),
                         f'<b>{safe_text(h.get("IMAGETYP", "Master"))}</b> '
                         f'{safe_text(h.get("FILTER") or "")}<br>{safe_text(" · ".join(s for s in said if s))}{left}'
                         f'<br><span class="soft">{safe_text(m["name"])}</span>'))
    return f'<div class="grid small">{"".join(out)}</div>' if out else ""


def served(stock):
    """Lights of one filter that the same masters serve share a row, with the largest difference in temperature."""
    groups = {}
    degrees = re.compile(r"([\d.]+) C off")
    for r in stock:
        if r.get("kind") == "light" and (r.get("masters") or r.get("reason")) and r.get("used") not in (False, "False"):
            why = str(r.get("reason") or "")
            key = (str(r.get("object") or ""), svg.order(str(r.get("filter") or "")), str(r.get("masters") or ""),
                   degrees.sub("# C off", why))
            groups.setdefault(key, []).append([float(d) for d in degrees.findall(why)])
    rows = []
    for (name, (_, filter), used, why), off in sorted(groups.items()):
        for largest in map(max, zip(*off)):
            why = why.replace("# C off", f"{'up to ' * (len(off) > 1)}{largest:.1f} °C off", 1)
        rows.append([f"{name} {filter}".strip(), str(len(off)), "\n".join(used.split()), "\n".join(why.split("; "))])
    return table(("lights", "frames#", "masters", "why"), rows) if rows else ""


def left_out(stock):
    """Frames that nothing was made of, and why."""
    rows = [[str(r.get("kind") or ""), base_name(r.get("raw") or r["name"]), str(r["reason"])] for r in stock
            if r.get("reason") and (r.get("used") in (False, "False") or r.get("kind") in ("unreadable", "unknown"))]
    if not rows:
        return ""
    return f'<details><summary>{count(len(rows), "frame")}</summary>{table(("kind", "file", "reason"), rows)}</details>'
