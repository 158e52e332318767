"""Pieces of an HTML page: escaped text, pictures as data, tables, numbers in words (`apfunc report`)."""

import base64
import math
import os
import re
from html import escape
from urllib.parse import quote


def safe_text(value):
    """Text of the night made safe for HTML: escaped, and without control and direction-changing characters."""
    return escape("".join(c if c.isprintable() or c == "\n" else " " for c in str(value)), quote=True)


def href(link):
    """A relative link made safe; an absolute one leads nowhere."""
    return escape(quote(str(link), safe="/.-_~+"), quote=True) if not str(link).startswith("/") else "#"


def image(content, name, link):
    """A picture (bytes of a PNG or JPEG, or None) as data in the page, linked to the file `link`."""
    if not content:
        return '<div class="none">no picture</div>'
    kind = "png" if content[:4] == b"\x89PNG" else "jpeg"
    data = base64.b64encode(content).decode()
    picture = f'<img loading="lazy" alt="{safe_text(name)}" src="data:image/{kind};base64,{data}">'
    return f'<a href="{href(link)}">{picture}</a>' if link else picture


def table(heads, rows):
    """A table; heads that end in # are of columns of numbers; lines in a cell stay lines."""
    wide = ("reason", "why", "tied to", "masters")
    kinds = ["n" if h.endswith("#") else "name" if i == 0 else "w" if h in wide else "t" for i, h in enumerate(heads)]
    head = "".join(f"<th class={kind}>{safe_text(h.rstrip('#'))}</th>" for h, kind in zip(heads, kinds))
    line = lambda row: "".join(f"<td class={kind}>{_lines(value)}</td>" for value, kind in zip(row, kinds))
    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _lines(value):
    return safe_text(value).replace("\n", "<br>")


def finite(value):
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def fixed(value, digits, unit=""):
    """A number with `digits` decimals, or a dash; thousands get a thin grouping."""
    return f"{value:,.{digits}f}{unit}" if finite(value) else "–"


def with_error(row, key, digits):
    """A value of a row with its error (column `key`_err)."""
    error = row.get(f"{key}_err")
    if not finite(error) or error <= 0:
        return fixed(row.get(key), digits)
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6)  # two digits of the error
    return f"{fixed(row.get(key), digits)} ± {fixed(error, digits)}"


def count(n, word):
    """'1 frame', '3 frames'."""
    return f"{n} {word}{'s' * (n != 1)}"


def short(value):
    """A number with four significant digits or all of its thousands, or a dash."""
    return "–" if not finite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def common_start(names):
    """What all of several names begin with, up to a '-' or '_' and at least six letters; else ''."""
    start = os.path.commonprefix(names)
    start = start[:max(start.rfind("-"), start.rfind("_")) + 1]
    return start if len(names) > 1 and len(start) >= 6 else ""


def median(values):
    """The median of the finite values, or None."""
    values = sorted(v for v in values if finite(v))
    return (values[len(values) // 2] + values[(len(values) - 1) // 2]) / 2 if values else None


def exposure(seconds):
    """'120 s', '20 min', '2.5 h', or None."""
    if not finite(seconds):
        return None
    if seconds < 360:
        return f"{seconds:.4g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def base_name(path):
    """A file's name without its folder."""
    return re.split(r"[/\\]", str(path))[-1]
