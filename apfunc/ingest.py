"""The raw frames of a night as records: find the files, read each header once, say what each one is.

A record is a plain dict (see `describe`).  What the header leaves blank comes from the file's name or its
folders, and `origin` says so.  Everything read here is untrusted: names for products pass `names.safe`.
"""

import hashlib
import json
import os
import re
import zipfile
from datetime import timedelta
from pathlib import Path

from apfunc import header as h
from apfunc.cards import plain
from apfunc.names import KINDS, parse, safe, stem

FITS_NAME = re.compile(r"\.(fits|fit|fts)(\.gz|\.fz)?$", re.IGNORECASE)
ZIP_LIMIT, ZIP_RATIO = 4 << 30, 300  # bytes of a member, and its inflation, beyond which it is refused
VERSION = 3  # of the cache


def find(roots):
    """``(files, ignored)``: every FITS file below `roots`, and how many other files there were.

    A file is ``(root, path, member, size, mtime_ns)``; `member` names the file inside a zip, else it is ''.
    Hidden files and folders, and folders called `truth`, are passed over.
    """
    files, ignored = [], 0
    for root in map(str, roots):
        for folder, folders, names in os.walk(root, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "truth")
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.startswith(".") or not os.path.isfile(path):
                    continue
                stat = os.stat(path)
                if FITS_NAME.search(name):
                    files.append((root, path, "", stat.st_size, stat.st_mtime_ns))
                elif name.lower().endswith(".zip"):
                    files += [(root, path, member, stat.st_size, stat.st_mtime_ns) for member in _members(path)]
                else:
                    ignored += 1
    return files, ignored


def _members(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(i.filename for i in archive.infolist() if FITS_NAME.search(i.filename))
    except (zipfile.BadZipFile, OSError):
        return [""]


def product_names(files):
    """The name of each file's products: its stem made safe; where two collide each gets a digest of its path."""
    names = [re.sub(r"\.(stars|cfa[RGB])$", r"_\1", safe(stem(member or path))) for _, path, member, *_ in files]
    folded = [n.lower() for n in names]
    counts = {n: folded.count(n) for n in set(folded)}
    return [name if counts[name.lower()] == 1 else f"{name}-{_digest(os.path.relpath(path, root), member)}"
            for name, (root, path, member, *_) in zip(names, files)]


def _digest(*words):
    return hashlib.sha1("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:6]


def ingest(files, raw_folder, cache):
    """The record of each file; headers are read only of files that `cache` does not know as they are.

    `raw_folder` gets a link ``NAME.fits`` to each file (or the file out of its zip).  `cache` maps keys to
    records and is updated in place.  Unreadable files have kind 'unreadable' and a reason.
    """
    raw_folder = Path(raw_folder)
    raw_folder.mkdir(parents=True, exist_ok=True)
    records, fresh = [], {}
    for name, (root, path, member, size, mtime) in zip(product_names(files), files):
        key = json.dumps([name, os.path.abspath(path), member, size, mtime])
        link = raw_folder / f"{name}.fits"
        if key in cache and os.path.lexists(link):
            record = cache[key]
        else:
            record = {"name": name, "raw": f"{path}!{member}" if member else path}
            try:
                _extract(path, member, link) if member else _link(path, link)
                record |= _read(link, member or os.path.relpath(path, os.path.dirname(os.path.abspath(root))), size)
            except (ValueError, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                said = parse(member or path)
                record |= empty() | {"kind": "unreadable", "reason": str(error), "damaged": True,
                                     "object": said.get("object"), "filter": said.get("filter"),
                                     "guess": said.get("kind")}
        fresh[key] = record
        records.append(dict(record))
    wanted = {r["name"] + ".fits" for r in records}
    for stale in os.listdir(raw_folder):
        if re.sub(r"\.cfa[RGB]\.fits$", ".fits", stale) not in wanted:
            os.unlink(raw_folder / stale)
    cache.clear()
    cache.update(fresh)
    return records


def _link(path, link):
    path = os.path.abspath(path)
    try:
        return os.symlink(path, link)
    except FileExistsError:
        temporary = link.with_suffix(".part")
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(path, temporary)
        os.replace(temporary, link)


def _extract(path, member, link):
    from apfunc.io import replacing
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        if info.file_size > ZIP_LIMIT or info.file_size > ZIP_RATIO * max(info.compress_size, 1):
            raise ValueError("refused: it inflates beyond reason")
        if member.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member) or ":" in member:
            raise ValueError("refused: its name points outside the zip file")
        with replacing(link) as temporary, archive.open(info) as source, open(temporary, "wb") as target:
            left = info.file_size
            while left > 0 and (block := source.read(min(left, 1 << 20))):
                target.write(block)
                left -= len(block)


def _read(link, shown, size):
    header, shape, needed = plain(link) or _opened(link)
    record = describe(header, shape, shown)
    if (present := os.path.getsize(link)) < needed:
        record.update(damaged=True, reason=f"the file is cut short ({present} of {needed} bytes)")
    return record


def _opened(path):
    """As `cards.plain`, of any file that astropy reads; 0 bytes where compression hides how many there should be."""
    from astropy.io import fits
    from apfunc import io
    header, shape = io.read_header(path)
    with open(path, "rb") as stream:
        if stream.read(6) != b"SIMPLE":
            return header, shape, 0
    with fits.open(path, memmap=False, disable_image_compression=True) as hdus:
        hdu = hdus[-1]
        return header, shape, hdu.fileinfo()["datLoc"] + hdu.size


def empty():
    """A record that knows nothing."""
    keys = "kind object filter exptime temp binning camera night date_obs telescope shape keys state calstat reason damaged guess bayer"
    return dict.fromkeys(keys.split()) | {"origin": ""}


def kind_of(text):
    """'bias', 'dark', 'flat' or 'light' of an IMAGETYP in any spelling, or None."""
    words = re.findall(r"[a-z]+", str(text or "").lower())
    kinds = [KINDS[w] for w in words if w in KINDS]
    return ("dark" if "dark" in kinds and "flat" in kinds else kinds[0]) if kinds else None


def describe(header, shape, path):
    """What a frame is, as a record, from its header, else its file name, else its folders.

    Keys: kind, object, filter, exptime [s], temp [C], binning, camera, night (local noon to noon, ISO),
    date_obs (UT, ISO), telescope, shape, keys (what masters must share), state (raw, calibrated, master),
    calstat, origin (which values did not come from the header, and from where), reason (why left out).
    """
    said, record, origin = parse(path), empty(), []
    folders = re.split(r"[/\\]", str(path))[:-1]
    said |= {k: v for k, v in _folders(folders).items() if k not in said}

    def first(key, value, source="name"):
        if value is None and said.get(key) is not None:
            value = said[key]
            origin.append(f"{key}:{source}")
        record[key] = value

    first("kind", kind_of(h.text(header, "IMAGETYP", "OBSTYPE", "FRAME", "IMGTYPE")))
    first("object", _clean(h.text(header, "OBJECT", "OBSTARGET", "OBSTARG")) if record["kind"] in ("light", None)
          else None)
    first("filter", _clean(h.text(header, "FILTER", "FILTER1", "INSFLNAM")))
    first("exptime", h.number(header, "EXPTIME", "EXPOSURE"))
    first("temp", h.temperature(header))
    first("binning", "{}x{}".format(*h.binning(header)) if "XBINNING" in header else None)
    first("telescope", _clean(h.text(header, "TELESCOP")))
    if isinstance(record["binning"], int) or record["binning"] is None:
        record["binning"] = "{0}x{0}".format(record["binning"] or 1)
    if record["kind"] != "light":
        record["object"] = None
    if record["kind"] in ("bias", "dark"):
        record["filter"] = None
    calstat = (h.text(header, "CALSTAT") or "").upper()
    master = said.get("master") or "master" in str(header.get("IMAGETYP", "")).lower() or "M" in calstat
    done = said.get("state") == "calibrated" or "F" in calstat or "D" in calstat
    record["state"] = ("master" if record["kind"] != "light" and master else
                       "calibrated" if record["kind"] == "light" and done else "raw")
    setting = h.number(header, "GAIN") if isinstance(header.get("GAIN"), int) else None
    record.update(shape=list(shape), calstat=calstat, camera=h.camera(header, shape), bayer=h.text(header, "BAYERPAT"),
                  keys=[list(shape), record["binning"], h.text(header, "INSTRUME"),
                        h.text(header, "READOUTM", "READMODE"), setting,
                        record["telescope"]])
    date = h.date_obs(header)
    record["date_obs"] = date.isoformat() if date else None
    record["night"] = _night(date, h.site(header), said, origin)
    if said.get("state") == "jpeg":
        record["reason"] = "a preview"
    if record["kind"] is None:
        record.update(kind="unknown", reason="neither header (IMAGETYP) nor name says whether it is bias, dark, flat or light")
    record["origin"] = " ".join(origin)
    return record


def _clean(text):
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or None if text else None


def _folders(folders):
    """Kind, telescope and filter as the folders of an iTelescope library say (Tnn/Masters/Darks/2024-05-01)."""
    said = {}
    for folder in folders:
        if re.fullmatch(r"T\d{1,3}", folder, re.IGNORECASE):
            said["telescope"] = folder.upper()
        elif folder.lower() in KINDS:
            said["kind"] = KINDS[folder.lower()]
        elif folder.lower() == "masters":
            said["master"] = True
        elif m := re.fullmatch(r"(\d{4})-(\d\d)(?:-(\d\d))?", folder):
            said["date"] = m[1] + m[2] + (m[3] or "15")
    return said


def _night(date, site, said, origin):
    from datetime import datetime
    if date and site:
        return str((date + timedelta(hours=site[1] / 15 - 12)).date())
    if said.get("date"):
        origin.append("night:name")
        try:
            local = datetime.strptime(said["date"] + (said.get("time") or "180000"), "%Y%m%d%H%M%S")
            return str((local - timedelta(hours=12)).date())
        except ValueError:
            pass
    if date:
        origin.append("night:UT")
        return str((date - timedelta(hours=12)).date())
    return None

