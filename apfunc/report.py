"""The night on one page: pictures, verdicts, plots, masters and warnings as one self-contained HTML file.

`report` is pure: tables, headers and the bytes of small pictures in, text out (`apfunc.gather` reads the files).
The page needs no network and holds no script; every text of the night is escaped, and a content policy forbids
whatever might slip through.
"""

import re
from collections import Counter
from datetime import datetime

from apfunc import sections
from apfunc.header import number, text
from apfunc.names import safe
from apfunc.page import base_name, common_start, count, fixed, safe_text
from apfunc.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report(inventory, quality=None, readnoise=None, frames=None, pictures=(), masters=(), badpix=(), night="",
           notes=(), residuals=None):
    """The report as HTML text.

    inventory   rows (dicts, or a Table) of frames.ecsv: name, raw, kind, object, filter, exptime, temp, night, date_obs, masters, reason
    quality     rows of quality.csv, one a light; masked or NaN cells are shown as a dash
    readnoise   rows of readnoise.ecsv
    frames      dict: name of a light -> dict with thumb (bytes of a PNG or JPEG, or None), header (or None), href
    pictures    dicts: kind (composite, coadd, continuum), name, header (or None), thumb, full (relative link or
                None), files (list of (label, relative link)); one with `reason` could not be made
    masters     dicts: name, header, thumb, href, median, std [of the pixels]
    badpix      dicts: name, thumb, href, pixels (how many the map has), bad (how many are), counts (dict kind: number)
    residuals   dict of arrays x, y [share of the frame], east, north [arcsec]: stars less their catalogue places, or None
    night       what to call it; notes: further warnings
    What is missing leaves its section out.  The same input gives the same text.
    """
    frames, stock = frames or {}, rows_of(inventory)
    lights = light_rows(stock, rows_of(quality), frames)
    told = warnings(inventory, quality, readnoise, frames, pictures, masters, notes)
    parts = [("pictures", "Pictures", sections.pictures(pictures)), ("lights", "Lights", sections.strip(lights)),
             ("plots", "Over the night", sections.plots(lights)),
             ("astrometry", "Astrometry", sections.astrometry(lights, frames, residuals)),
             ("quality", "Quality", sections.quality(lights)),
             ("detector", "Detector", sections.detector(rows_of(readnoise), badpix)),
             ("masters", "Masters", sections.masters(masters)),
             ("served", "What served what, and why", sections.served(stock)),
             ("left", "Frames not used", sections.left_out(stock))]
    parts = [(i, title, body) for i, title, body in parts if body]
    links = "".join(f'<a href="#{i}">{title}</a>' for i, title, _ in parts)
    body = "".join(f'<section id="{i}"><h2>{title}</h2>{part}</section>' for i, title, part in parts)
    targets = [t.replace("_", " ") for t in sorted({r["object"] for r in lights if r["object"]})]
    title = ", ".join(targets) if 0 < len(targets) < 5 else f"{len(targets)} targets" if targets else "The night"
    title, night = safe_text(title), safe_text(night)
    head = (f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title} · {night}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style>')
    top = (f'<h1>{title}</h1><p class="night">Night of {night}</p>{sections.facts(lights, masters)}{sections.warned(told)}'
           f'<nav>{links}</nav>')
    return (f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><header><div>{top}</div></header>\n<main>{body}</main>\n'
            f'<footer>Made by apfunc. Plain numbers are in <a href="quality.csv">quality.csv</a> and '
            f'<a href="frames.ecsv">frames.ecsv</a>. Times are UT.</footer></body></html>\n')


def rows_of(table):
    """The rows of a Table (or of dicts, or None) as dicts of plain values; masked, empty and NaN become None."""
    return [{k: _plain(row[k]) for k in row.keys()} for row in ([] if table is None else table)]


def _plain(value):
    if value is None or str(value) in ("--", "nan", "None", ""):
        return None
    return value.item() if hasattr(value, "item") else value


def light_rows(stock, judged, frames):
    """A dict a light, in order of time: quality's columns, the inventory's, and what its header adds (focus, date)."""
    known = {str(r["name"]): r for r in stock}
    judged = {str(r["name"]): r for r in judged}
    names = list(judged)
    names += [n for n, r in known.items() if n not in judged and r.get("kind") == "light"
              and r.get("used") in (None, True, "True")]
    start, rows = len(common_start(names)), []
    for name in names:
        row = {k: v for k, v in known.get(name, {}).items()
               if k in ("object", "filter", "exptime", "temp", "date_obs", "raw")}
        row |= {k: v for k, v in judged.get(name, {}).items() if v is not None}
        frame = frames.get(name, {})
        header = frame.get("header") or {}
        row |= {"name": name, "short": name[start:], "id": "light-" + safe(name), "thumb": frame.get("thumb"),
                "href": frame.get("href"),
                "focus": number(header, "FOCUSPOS"), "when": _time(row.get("date_obs") or text(header, "DATE-OBS")),
                "good": row.get("verdict") == "accept", "object": str(row.get("object") or ""),
                "filter": str(row.get("filter") or "")}
        rows.append(row)
    first = min((r["when"] for r in rows if r["when"]), default=None)
    midnight = first and first.replace(hour=0, minute=0, second=0, microsecond=0)
    for row in rows:
        row["hours"] = (row["when"] - midnight).total_seconds() / 3600 if row["when"] else None
    return sorted(rows, key=lambda r: (r["hours"] is None, r["hours"] or 0, r["name"]))


def _time(value):
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", str(value)).rstrip("Z"))
    except ValueError:
        return None


def warnings(inventory, quality=None, readnoise=None, frames=None, pictures=(), masters=(), notes=()):
    """What a person should know before using the products, as a list of sentences; arguments as for `report`."""
    stock, told = rows_of(inventory), list(notes)
    rejected = [r for r in rows_of(quality) if r.get("verdict") and r["verdict"] != "accept"]
    if len(rejected) > 4:
        kinds = Counter(re.split(r"[:(;]", r.get("reason") or "no reason")[0].strip() for r in rejected)
        kinds = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        told.append(f"{len(rejected)} of {len(quality)} lights rejected: {kinds} (quality.csv says which)")
    elif rejected:
        named = [f"{r['name']} ({r.get('reason') or 'no reason'})" for r in rejected]
        told.append(f"{len(rejected)} of {len(quality)} lights rejected: {'; '.join(named)}")
    told += [f"{base_name(r.get('raw') or r['name'])}: {r.get('reason') or 'cannot be read'}"
             for r in stock if r.get("kind") in ("unreadable", "unknown")]
    makeshift = Counter(part for r in stock if r.get("kind") == "light"
                        for part in str(r.get("reason") or "").split("; ")
                        if re.match(r"no (bias|dark|flat)|.*scaled by|.*\d{3,} days", part))
    told += [f"{count(n, 'light')}: {part}" for part, n in makeshift.items()]
    for master in masters:
        left = sections.cards(master.get("header"), "EXC")
        if left:
            told.append(f"{master['name']}: {count(len(left), 'frame')} left out ({_some(left, 4)})")
    ties = Counter(str((f.get("header") or {}).get("WCSSRC", "")) for f in (frames or {}).values())
    for tie, n in sorted(ties.items()):
        if "relative" in tie:
            told.append(f"{count(n, 'light')} registered to each other only: no catalogue covers the field")
        elif "only" in tie:
            told.append(f"{count(n, 'light')}: the tie to the sky is weak ({tie})")
    for picture in pictures:
        header = picture.get("header") or {}
        if picture.get("reason"):
            kind = sections.KINDS.get(picture["kind"], "picture").lower()
            told.append(f"{kind} {picture['name']} was not made: {picture['reason']}")
        if header.get("CONTAGRE") is False:
            apart = abs(number(header, "CONTDIFF") or 0)
            told.append(f"{picture['name']}: the two estimates of the continuum's scale differ by {apart:.1f} sigma "
                        f"(stars {fixed(header.get('CONTSTAR'), 4)}, pixels {fixed(header.get('CONTPIX'), 4)})")
    if readnoise is not None and not len(readnoise):
        told.append("gain and read noise could not be measured (two biases and two flats of a camera are needed)")
    return told


def _some(words, most):
    return "; ".join(words[:most]) + "; …" * (len(words) > most)
