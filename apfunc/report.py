"""The night on one page: pictures, verdicts, plots, masters and warnings as one self-contained HTML file.

`report` is pure: tables, headers and the bytes of small pictures in, text out (`apfunc.gather` reads the files).
The page needs no network and holds no script; every text of the night is escaped, and a content policy forbids
whatever might slip through.
"""

import re
from collections import Counter
from datetime import datetime

from apfunc import svg
from apfunc.header import number, text
from apfunc.names import safe
from apfunc.page import base_name, common_start, exposure, finite, fixed, href, image, median, safe_text, short, table, with_error
from apfunc.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
KINDS = {"composite": "Colour composite", "coadd": "Stack", "continuum": "Line image, continuum subtracted"}
PLOTS = (("fwhm_arcsec", "Seeing, FWHM", "arcsec", 0.5, 0), ("fwhm_px", "FWHM", "pixel", 0.5, 0), ("ellipticity", "Ellipticity", "", 0.05, 0),
         ("sky", "Sky", "adu", 5, None), ("transparency", "Transparency", "", 0.1, 0), ("airmass", "Airmass", "", 0.1, None),
         ("nstars", "Stars found", "", 10, 0), ("temp", "Sensor temperature", "°C", 0.5, None), ("focus", "Focuser position", "steps", 10, None),
         ("wcs_rms_arcsec", "Astrometric residual, rms", "arcsec", 0.05, 0), ("wcs_nmatch", "Matched stars", "", 10, 0))


def report(inventory, quality=None, readnoise=None, frames=None, pictures=(), masters=(), badpix=(), night="", notes=()):
    """The report as HTML text.

    inventory   Table of frames.ecsv: name, raw, kind, object, filter, exptime, temp, night, date_obs, masters, reason, …
    quality     Table of quality.csv, a row a light; masked or NaN cells are shown as a dash
    readnoise   Table of readnoise.ecsv
    frames      dict: name of a light -> dict with thumb (bytes of a PNG or JPEG, or None), header (or None), href
    pictures    dicts: kind (composite, coadd, continuum), name, header (or None), thumb, full (relative link or
                None), files (list of (label, relative link)); one with `reason` could not be made
    masters     dicts: name, header, thumb, href, median, std [of the pixels]
    badpix      dicts: name, thumb, href, pixels (how many the map has), bad (how many are), counts (dict kind: number)
    night       what to call it; notes: further warnings
    What is missing leaves its section out.  The same input gives the same text.
    """
    frames = frames or {}
    lights = light_rows(inventory, quality, frames)
    told = warnings(inventory, quality, readnoise, frames, pictures, masters, notes)
    sections = [("pictures", "Pictures", _pictures(pictures)), ("lights", "Lights", _strip(lights)), ("plots", "Over the night", _plots(lights)),
                ("astrometry", "Astrometry", _astrometry(lights, frames)), ("quality", "Quality", _quality(lights)),
                ("detector", "Detector", _detector(readnoise, badpix)), ("masters", "Masters", _masters(masters)),
                ("served", "What served what, and why", _served(inventory)), ("left", "Frames not used", _left_out(inventory))]
    sections = [(i, title, body) for i, title, body in sections if body]
    links = "".join(f'<a href="#{i}">{title}</a>' for i, title, _ in sections)
    body = "".join(f'<section id="{i}"><h2>{title}</h2>{part}</section>' for i, title, part in sections)
    targets = sorted({r["object"] for r in lights if r["object"]})
    title = ", ".join(t.replace("_", " ") for t in targets) if 0 < len(targets) < 5 else f"{len(targets)} targets" if targets else "The night"
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{safe_text(title)} · {safe_text(night)}</title><style>{CSS}</style></head>\n'
            f'<body><header><div><h1>{safe_text(title)}</h1><p class="night">Night of {safe_text(night)}</p>{_facts(lights, masters)}{_warned(told)}<nav>{links}</nav>'
            f'</div></header>\n<main>{body}</main>\n<footer>Made by apfunc. Plain numbers are in <a href="quality.csv">quality.csv</a> and '
            f'<a href="frames.ecsv">frames.ecsv</a>. Times are UT.</footer></body></html>\n')


# ------------------------------------------------------------------------------------------------ from tables to rows

def light_rows(inventory, quality, frames):
    """A dict a light, in order of time: quality's columns, the inventory's and what its header adds (focus, date)."""
    known = {str(r["name"]): r for r in _rows(inventory)}
    judged = {str(r["name"]): r for r in _rows(quality)}
    names = list(judged) + [n for n, r in known.items() if n not in judged and r.get("kind") == "light" and r.get("used") in (None, True, "True")]
    rows = []
    for name in names:
        row = {k: v for k, v in known.get(name, {}).items() if k in ("object", "filter", "exptime", "temp", "date_obs", "raw")}
        row |= {k: v for k, v in judged.get(name, {}).items() if v is not None}
        header = frames.get(name, {}).get("header") or {}
        row |= {"name": name, "thumb": frames.get(name, {}).get("thumb"), "href": frames.get(name, {}).get("href"),
                "focus": number(header, "FOCUSPOS"), "id": "light-" + safe(name)}
        row["when"] = _time(row.get("date_obs") or text(header, "DATE-OBS"))
        row["good"] = row.get("verdict") == "accept"
        for key in ("object", "filter"):
            row[key] = str(row.get(key) or "")
        rows.append(row)
    start = len(common_start(names))
    first = min((r["when"] for r in rows if r["when"]), default=None)
    for row in rows:
        row["short"] = row["name"][start:]
        midnight = first and first.replace(hour=0, minute=0, second=0, microsecond=0)
        row["hours"] = (row["when"] - midnight).total_seconds() / 3600 if row["when"] else None
    return sorted(rows, key=lambda r: (r["hours"] is None, r["hours"] or 0, r["name"]))


def _rows(rows_of):
    """The rows of a Table as dicts of plain values; masked and NaN become None."""
    if rows_of is None:
        return []
    return [{k: _plain(row[k]) for k in rows_of.colnames} for row in rows_of]


def _plain(value):
    if value is None or str(value) in ("--", "nan", "None", ""):
        return None
    return value.item() if hasattr(value, "item") else value


def _time(value):
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", str(value)).rstrip("Z"))
    except ValueError:
        return None


def warnings(inventory, quality=None, readnoise=None, frames=None, pictures=(), masters=(), notes=()):
    """What a person should know before using the products, as a list of sentences; arguments as for `report`."""
    told = list(notes)
    judged = [r for r in _rows(quality) if r.get("verdict") and r["verdict"] != "accept"]
    if judged:
        told.append(f"{len(judged)} of {len(quality)} lights rejected: " + "; ".join(f"{r['name']} ({r.get('reason') or 'no reason'})" for r in judged[:12])
                    + ("; …" if len(judged) > 12 else ""))
    broken = [r for r in _rows(inventory) if r.get("kind") in ("unreadable", "unknown")]
    told += [f"{base_name(r.get('raw') or r['name'])}: {r.get('reason') or 'cannot be read'}" for r in broken]
    parts = Counter(p for r in _rows(inventory) if r.get("kind") == "light" for p in str(r.get("reason") or "").split("; ")
                    if re.match(r"no (bias|dark|flat)|.*scaled by|.*\d{2,} days", p))
    told += [f"{n} light{'s' * (n > 1)}: {p}" for p, n in parts.items()]
    for master in masters:
        left = _cards(master.get("header"), "EXC")
        if left:
            told.append(f"{master['name']}: {len(left)} frame{'s' * (len(left) > 1)} left out ({'; '.join(left[:4])}{'; …' * (len(left) > 4)})")
    relative = [n for n, f in (frames or {}).items() if "relative" in str((f.get("header") or {}).get("WCSSRC", ""))]
    if relative:
        told.append(f"{len(relative)} light{'s' * (len(relative) > 1)} registered to each other only: no catalogue star was found in the field")
    for picture in pictures:
        header = picture.get("header") or {}
        if picture.get("reason"):
            told.append(f"{KINDS.get(picture['kind'], 'picture').lower()} {picture['name']} was not made: {picture['reason']}")
        if header.get("CONTAGRE") is False:
            told.append(f"{picture['name']}: the two estimates of the continuum's scale differ by {abs(number(header, 'CONTDIFF') or 0):.1f} sigma "
                        f"(stars {fixed(header.get('CONTSTAR'), 4)}, pixels {fixed(header.get('CONTPIX'), 4)})")
    if readnoise is not None and not len(readnoise):
        told.append("gain and read noise could not be measured (two biases and two flats of a camera are needed)")
    return told


def _cards(header, prefix):
    header = header or {}
    return [str(header[k]) for k in sorted(header) if re.fullmatch(prefix + r"\d+", k)] if header else []


# ----------------------------------------------------------------------------------------------------- sections

def _facts(lights, masters):
    good = [r for r in lights if r["good"]]
    hours = sum(r.get("exptime") or 0 for r in good) / 3600
    facts = [(f"{len(good)} of {len(lights)}", "lights accepted"), (f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min", "accepted exposure"),
             (", ".join(sorted({r["filter"] for r in lights if r["filter"]}, key=svg.order)) or "–", "filters"),
             (fixed(median([r.get("fwhm_arcsec") for r in good]), 2, '"'), "median FWHM"),
             (fixed(median([r.get("wcs_rms_arcsec") for r in good]), 3, '"'), "astrometric rms"), (str(len(masters)), "masters")]
    return '<div class="facts">' + "".join(f"<div><b>{safe_text(v)}</b><span>{safe_text(k)}</span></div>" for v, k in facts if v != "–") + "</div>"


def _warned(told):
    items = "".join(f"<li>{safe_text(t)}</li>" for t in told)
    return f'<div class="warnings" role="note"><h2>Worth knowing ({len(told)})</h2><ul>{items}</ul></div>' if told else ""


def _pictures(pictures):
    out = ""
    for kinds, style in ((("composite",), "grid hero"), (("continuum", "coadd"), "grid")):
        shown = [p for k in kinds for p in sorted(pictures, key=lambda p: svg.order((p.get("header") or {}).get("FILTER", ""))) if p["kind"] == k]
        shown = [p for p in shown if not p.get("reason")]
        if shown:
            out += f'<div class="{style}">{"".join(map(_picture, shown))}</div>' + ("<p></p>" if style != "grid" else "")
    return out


def _picture(p):
    header = p.get("header") or {}
    said = [f"{n} frames" if (n := header.get("NCOMBINE")) else None, exposure(number(header, "EXPTIME")),
            f"FWHM {fixed(number(header, 'FWHM'), 2)} px" if number(header, "FWHM") else None,
            f"zero point {fixed(number(header, 'MAGZP'), 2)}" if number(header, "MAGZP") else None]
    if number(header, "CONTSCAL") is not None:
        said += [f"continuum × {fixed(header['CONTSCAL'], 4)} ± {fixed(number(header, 'CONTSERR'), 4)}",
                 f"stars left {abs(100 * number(header, 'CONTRESI')):.1f} %" if number(header, "CONTRESI") is not None else None]
    files = " · ".join(f'<a href="{href(h)}">{safe_text(label)}</a>' for label, h in p.get("files", ()))
    return (f'<figure class="card">{image(p.get("thumb"), p["name"], p.get("full"))}<figcaption><b>{safe_text(p["name"])}</b> '
            f'<span class="soft">{KINDS.get(p["kind"], "")}</span><br>{safe_text(" · ".join(s for s in said if s))}'
            f'{"<br>" if files and any(said) else ""}{files}</figcaption></figure>')


def _strip(lights):
    cards = []
    for r in lights:
        verdict = r.get("verdict") or "not judged"
        line = " · ".join(s for s in (exposure(r.get("exptime")), svg.clock(r["hours"]) if r["hours"] is not None else None,
                                      f'{fixed(r.get("fwhm_arcsec"), 1)}"' if finite(r.get("fwhm_arcsec")) else None) if s)
        cards.append(f'<figure class="card {"" if r["good"] else "rejected"}" id="{r["id"]}">{image(r["thumb"], r["name"], r["href"])}<figcaption>'
                     f'<span class="pill {"accept" if r["good"] else "reject"}">{safe_text(verdict)}</span> <span class="filter {svg.hue(r["filter"])}">'
                     f'{safe_text(r["filter"])}</span> {safe_text(line)}<br>{safe_text(r.get("reason") or "")}{"<br>" if r.get("reason") else ""}'
                     f'<span class="soft">{safe_text(r["short"])}</span></figcaption></figure>')
    start = common_start([r["name"] for r in lights])
    begins = f'<p class="soft">Names are shown without their common beginning {safe_text(start)}</p>' if start else ""
    return f'{begins}<div class="strip">{"".join(cards)}</div>' if cards else ""


def _plots(lights):
    cards = []
    arcsec = any(finite(r.get("fwhm_arcsec")) for r in lights)
    for key, label, unit, least, floor in PLOTS:
        if key == "fwhm_px" and arcsec:
            continue
        points = [{"x": r["hours"], "y": r.get(key), "filter": r["filter"], "good": r["good"], "link": r["id"],
                   "text": f"{r['name']}: {fixed(r.get(key), 3)} {unit}{'' if r['good'] else ' · ' + str(r.get('reason') or 'not accepted')}"} for r in lights]
        plot = svg.plot(points, label, unit, least, floor, together=key in ("airmass", "temp", "focus"))
        if plot:
            cards.append(f'<div class="card"><h3>{label} <span>{unit}</span></h3>{plot}</div>')
    key = svg.legend(sorted({r["filter"] for r in lights}, key=svg.order), any(not r["good"] for r in lights))
    return f'{key}<div class="plots">{"".join(cards)}</div>' if cards else ""


def _astrometry(lights, frames):
    rows = []
    for r in lights:
        header = frames.get(r["name"], {}).get("header") or {}
        if finite(r.get("wcs_rms_arcsec")) or header.get("WCSSRC"):
            rows.append([r["short"], r["filter"], fixed(r.get("wcs_rms_arcsec"), 3), fixed(number(header, "WCSRMSPX"), 3), fixed(r.get("wcs_nmatch"), 0),
                         fixed(number(header, "PIXSCALE"), 4), str(header.get("WCSSRC", "–"))])
        else:
            rows.append([r["short"], r["filter"], "–", "–", "–", "–", "not solved: " + str(r.get("reason") or "no reason given")])
    return table(("light", "filter", 'rms ["]#', "rms [px]#", "matches#", 'scale ["/px]#', "tied to"), rows) if rows else ""


def _quality(lights):
    columns = (("airmass", 3), ("fwhm_px", 2), ("fwhm_arcsec", 2), ("ellipticity", 3), ("nstars", 0), ("sky", 1), ("noise", 2), ("transparency", 3), ("weight", 3))
    rows = [[r["short"], r["filter"], r.get("verdict") or "–", r.get("reason") or "", exposure(r.get("exptime")) or "–",
             *[fixed(r.get(k), d) for k, d in columns]] for r in lights]
    heads = ("light", "filter", "verdict", "reason", "exposure#", "airmass#", "FWHM [px]#", 'FWHM ["]#', "ellipticity#", "stars#", "sky [adu]#", "noise [adu]#", "transparency#",
             "weight#")
    return table(heads, rows) if rows else ""


def _detector(readnoise, badpix):
    out = ""
    rows = [[str(r.get("camera") or ""), with_error(r, "gain", 3), with_error(r, "readnoise", 2), fixed(r.get("nbias"), 0), fixed(r.get("nflat"), 0)] for r in _rows(readnoise)]
    if rows:
        out += table(("camera", "gain [electron/adu]#", "read noise [electron]#", "biases#", "flats#"), rows) + "<p></p>"
    cards = []
    for b in badpix:
        share = 100 * b["bad"] / b["pixels"] if b.get("pixels") else 0
        said = " · ".join(f"{n:,} {kind.lower()}" for kind, n in b["counts"].items() if n) or "none found"
        cards.append(f'<figure class="card">{image(b.get("thumb"), b["name"], b.get("href"))}<figcaption><b>Bad pixels</b> '
                     f'<span class="soft">{safe_text(b["name"])}</span><br>{safe_text(said)}<br>{share:.3f} % of the sensor</figcaption></figure>')
    return out + (f'<div class="grid">{"".join(cards)}</div>' if cards else "")


def _masters(masters):
    cards = []
    for m in masters:
        h = m.get("header") or {}
        said = [f"{h['NCOMBINE']} frames" if h.get("NCOMBINE") else None, exposure(number(h, "EXPTIME")),
                f"{fixed(number(h, 'CCD-TEMP'), 1)} °C" if number(h, "CCD-TEMP") is not None else None,
                f"median {short(m.get('median'))}, scatter {short(m.get('std'))}" if finite(m.get("median")) else None,
                f"noise {short(number(h, 'NOISE'))}" if number(h, "NOISE") is not None else None,
                f"clipped {100 * number(h, 'REJFRAC'):.2f} %" if number(h, "REJFRAC") is not None else None,
                f"level {short(number(h, 'FLATNORM'))} adu" if number(h, "FLATNORM") is not None else None]
        left = "".join(f'<br><span class="pill reject">left out</span> {safe_text(t)}' for t in _cards(h, "EXC"))
        cards.append(f'<figure class="card">{image(m.get("thumb"), m["name"], m.get("href"))}<figcaption><b>{safe_text(h.get("IMAGETYP", "Master"))}</b> '
                     f'{safe_text(h.get("FILTER") or "")}<br>{safe_text(" · ".join(s for s in said if s))}{left}<br><span class="soft">{safe_text(m["name"])}</span></figcaption></figure>')
    return f'<div class="grid small">{"".join(cards)}</div>' if cards else ""


def _served(inventory):
    """Lights of one filter that the same masters serve share a row, with the largest difference in temperature."""
    groups = {}
    degrees = re.compile(r"([\d.]+) C off")
    for r in _rows(inventory):
        if r.get("kind") == "light" and (r.get("masters") or r.get("reason")) and r.get("used") not in (False, "False"):
            why = str(r.get("reason") or "")
            key = (str(r.get("object") or ""), svg.order(str(r.get("filter") or "")), str(r.get("masters") or ""), degrees.sub("# C off", why))
            groups.setdefault(key, []).append([float(d) for d in degrees.findall(why)])
    rows = []
    for (name, (_, filter), masters, why), off in sorted(groups.items()):
        for largest in map(max, zip(*off)):
            why = why.replace("# C off", f"{'up to ' * (len(off) > 1)}{largest:.1f} °C off", 1)
        rows.append([f"{name} {filter}".strip(), str(len(off)), "\n".join(masters.split()), "\n".join(why.split("; "))])
    return table(("lights", "frames#", "masters", "why"), rows) if rows else ""


def _left_out(inventory):
    rows = [[str(r.get("kind") or ""), base_name(r.get("raw") or r["name"]), str(r["reason"])] for r in _rows(inventory)
            if r.get("reason") and (r.get("used") in (False, "False") or r.get("kind") in ("unreadable", "unknown"))]
    return f'<details><summary>{len(rows)} frames</summary>{table(("kind", "file", "reason"), rows)}</details>' if rows else ""
