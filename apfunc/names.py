"""What the name of a file says, names that are safe for make and the shell, and names of filters."""

import re

KINDS = {"light": "light", "object": "light", "science": "light", "bias": "bias", "zero": "bias", "offset": "bias",
         "biases": "bias", "dark": "dark", "darks": "dark", "flat": "flat", "flats": "flat", "lights": "light",
         "domeflat": "flat", "skyflat": "flat", "twiflat": "flat", "darkflat": "dark", "flatdark": "dark"}

BANDS = {"L": "l lum luminance clear c lp uvir irb", "R": "red", "G": "green", "B": "blue",
         "Ha": "ha halpha hydrogenalpha h hii", "Hb": "hb hbeta", "OIII": "oiii o3 o", "SII": "sii s2 s",
         "NII": "nii n2",
         "U": "u johnsonu bessellu", "V": "v johnsonv bessellv", "I": "i johnsoni besselli cousinsi",
         "u": "sdssu sloanu up", "g": "sdssg sloang gp", "r": "sdssr sloanr rp", "i": "sdssi sloani ip",
         "z": "sdssz sloanz zp zs"}
_BAND = {alias: band for band, aliases in BANDS.items() for alias in aliases.split()}

RAW_EXTENSION = re.compile(r"(\.(fits|fit|fts))?(\.(gz|fz))?$", re.IGNORECASE)


def stem(name):
    """A file's name without its folder and its FITS extension: 'a/b.x.fits.fz' gives 'b.x'."""
    return RAW_EXTENSION.sub("", re.split(r"[/\\]", str(name))[-1])


def safe(text):
    """`text` made safe for make, the shell and a file system: letters, digits, ``_ . + -`` only, no leading
    dot or dash, at most 150 characters, never empty.  Different texts may give the same name."""
    import unicodedata
    plain = unicodedata.normalize("NFKD", str(text)).encode("ascii", "ignore").decode()
    plain = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9_.+-]+", "_", plain))
    return plain.lstrip("._-").rstrip("._")[:150] or "unnamed"


def band(name):
    """The canonical name of a filter: 'H-Alpha', 'ha' and 'Ha 5nm' are 'Ha', 'Luminance' is 'L', 'SDSS g'' is
    'g'.  A lone letter keeps its case (R is broad red, r is Sloan r).  A name that says nothing comes back as it is."""
    text = str(name).strip()
    if text in ("L", "R", "G", "B", "V", "U", "I", "u", "g", "r", "i", "z"):
        return text
    key = re.sub(r"[\d.]+\s*nm\b", "", text.lower())
    key = re.sub(r"(filter|bessel+|astrodon|baader|chroma|optolong|_|\W)", "", key)
    letters = {"b": "B", "g": "G", "r": "R", "z": "z"}
    return _BAND.get(key) or _BAND.get(re.sub(r"\d+$", "", key)) or letters.get(key, text)


def parse(name):
    """What the base name of a raw file says, as a dict of strings and numbers; empty where it says nothing.

    Keys that may be there: state, kind, telescope, user, object, date (YYYYMMDD, local), time (HHMMSS,
    local), filter, binning, pier (E or W), exptime [s], number, temp [C], master (True).  Known are
    iTelescope's raw and calibrated lights (parsed from both ends, for the user and the target may hold
    anything), its master and library names, and `<object>_<filter>_<date>_<time>` as ACP and others write.
    A folder in `name` is ignored.
    """
    base = stem(name)
    for pattern in (_light, _calibrated_set, _master, _library, _common):
        found = pattern(base)
        if found:
            return {key: value for key, value in found.items() if value not in (None, "")}
    return _kind_only(base)


def _light(base):
    m = re.fullmatch(
        r"(?P<state>raw|calibrated|jpeg)-(?P<telescope>[^-]+)-(?P<middle>.*?)-?(?P<date>\d{8})-(?P<time>\d{6})-(?P<filter>[^-]*(?:-[A-Za-z][^-]*)?)"
        r"-BIN(?P<binning>\d)-(?P<pier>[EW])-(?P<exptime>\d+(?:\.\d+)?)-(?P<number>\d+)", base, re.IGNORECASE)
    if not m:
        return None
    found = m.groupdict()
    user, _, target = found.pop("middle").partition("-")
    found.update(user=user, object=target, state=found["state"].lower(), pier=found["pier"].upper())
    kind = KINDS.get(target.lower()) or KINDS.get(found["filter"].lower()) or "light"
    if kind != "light":
        found.update(object=None, filter=None if KINDS.get(found["filter"].lower()) else found["filter"])
    return dict(found, kind=kind, **_numbers(found))


def _calibrated_set(base):
    m = re.fullmatch(r"Calibrated-(?P<user>[^-]+)-(?P<object>.+)-(?P<exptime>\d+(?:\.\d+)?)s-(?P<filter>.+?)-(?P<number>\d+)",
                     base, re.IGNORECASE)
    if not m:
        return None
    found = m.groupdict()
    return dict(found, state="calibrated", kind="light", **_numbers(found))


def _master(base):
    m = re.match(r"Master[_-](?P<kind>Bias|Dark|Flat)s?[_-]", base, re.IGNORECASE)
    if not m:
        return None
    found = {"kind": KINDS[m["kind"].lower()], "master": True}
    if found["kind"] == "flat" and (f := re.match(r"Master[_-]Flat[_-](.+?)[_-]\d+[_-]", base, re.IGNORECASE)):
        found["filter"] = f[1]
    for key, pattern in (("binning", r"Bin(\d)"), ("temp", r"Temp(-?\d+(?:\.\d+)?)C"),
                         ("exptime", r"ExpTime(\d+(?:\.\d+)?)s")):
        if f := re.search(pattern, base, re.IGNORECASE):
            found[key] = f[1]
    return dict(found, **_numbers(found))


def _library(base):
    m = re.fullmatch(r"(?P<telescope>T\d+)-(?P<user>[^-]+)-(?P<kind>Bias|Dark|Flat)-(?:(?P<exptime>\d+(?:\.\d+)?)-)?LD(?P<date>\d{8})"
                     r"-LT(?P<time>\d{6})(?:-BIN(?P<binning>\d))?.*", base, re.IGNORECASE)
    if m:
        return dict(m.groupdict(), kind=KINDS[m["kind"].lower()], **_numbers(m.groupdict()))
    m = re.search(r"(?P<number>\d+)?(?P<kind>bias|dark|flat)(?P<exptime>\d+)secBin(?P<binning>\d)", base, re.IGNORECASE)
    if m:
        return dict(m.groupdict(), kind=KINDS[m["kind"].lower()], **_numbers(m.groupdict()))
    m = re.fullmatch(r"(?P<telescope>[^_]+)_(?P<filter>[^_]+)_(?P<binning>\d)x\d_(?:sky|dome)?flat_?(?P<number>\d+)",
                     base, re.IGNORECASE)
    return dict(m.groupdict(), kind="flat", **_numbers(m.groupdict())) if m else None


def _common(base):
    m = re.fullmatch(r"(?P<object>.+)_(?P<filter>[^_]+)_(?P<date>\d{8})_(?P<time>\d{6})", base)
    if not m:
        return None
    found = m.groupdict()
    kind = KINDS.get(found["object"].lower())
    if kind:
        binned = re.fullmatch(r"BIN(\d)", found["filter"], re.IGNORECASE)
        found.update(object=None, filter=None if binned else found["filter"], binning=binned and binned[1])
    return dict(found, kind=kind or "light", **_numbers(found))


def _kind_only(base):
    for word in re.split(r"[^A-Za-z]+", base.lower()):
        if word in KINDS and word not in ("object", "science", "offset", "zero"):
            found = {"kind": KINDS[word]}
            if found["kind"] == "flat" and (m := re.search(r"flats?[_-](.+?)[_-]\d+$", base, re.IGNORECASE)):
                found["filter"] = m[1]
            return found
    return {}


def _numbers(found):
    """The numeric entries of `found`, as numbers."""
    numbers = {key: float(found[key]) for key in ("exptime", "temp") if found.get(key)}
    return numbers | {key: int(found[key]) for key in ("binning", "number") if found.get(key)}
