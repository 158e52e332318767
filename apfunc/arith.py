"""Image arithmetic: one image, or an image with another one or with a number.

out = op(a)        neg abs sqrt log log10 exp square
out = op(a, b)     add sub mul div pow mod min max      (also written + - * / ** %)
"""

import math

import numpy as np

from apfunc.header import history, number, text

UNARY = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log": np.log,
    "log10": np.log10,
    "exp": np.exp,
    "square": np.square,
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "mod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
}
SIGNS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow", "^": "pow", "%": "mod"}


def arith(op, a, b=None):
    """The image ``op(a)`` or ``op(a, b)``, computed in floating point: uint16 1 - 2 is -1.0.

    op   a name of UNARY or BINARY above, or a sign (``+ - * / ** ^ %``); a lone ``-`` without `b` is neg.
         log is natural; mod has the sign of the divisor, as in Python.
    a    image ``(data, header)``, 2-D, any number type; or a number, when `b` is an image (1 - image).
    b    image of the same shape, or a number.

    Returns float32 data and a copy of the (first) image's header.  NaN means no value and spreads: where
    any operand is NaN the result is NaN, in min and max too.  A result that is not a finite number
    (division by zero, root or logarithm of a negative number, overflow) is NaN.

    Header: what the operation makes untrue is dropped or adapted.  SATURATE and EGAIN follow the addition
    of a number and the multiplication by a positive one, RDNOISE of image +- image adds in quadrature; any
    other operation that changes the scale of the noise drops EGAIN, RDNOISE and SATURATE.  BUNIT is dropped
    where the result is in other units (log, sqrt, products and ratios of images).

    Raises ValueError for an unknown op, a missing or needless operand, or shapes that differ.

    >>> data, header = arith("sub", image, 1000)
    >>> ratio, _ = arith("/", image, flat)
    """
    op = "neg" if op == "-" and b is None else SIGNS.get(op, op)
    _check(op, a, b)
    first, second = _values(a), _values(b)
    with np.errstate(all="ignore"):
        out = UNARY[op](first) if op in UNARY else BINARY[op](first, second)
        out = np.asarray(out).astype(np.float32)
    out[~np.isfinite(out)] = np.nan
    header = (a if _is_image(a) else b)[1].copy()
    _adapt(header, op, a, b)
    history(header, "arith", op=op, a=None if _is_image(a) else _said(a), b=None if b is None else _said(b))
    return out, header


def _is_image(operand):
    return isinstance(operand, (tuple, list))


def _check(op, a, b):
    if op not in UNARY and op not in BINARY:
        raise ValueError(
            f"unknown operation {op}; there are {' '.join(UNARY)} (one image), {' '.join(BINARY)} (two operands)"
        )
    if op in BINARY and b is None:
        raise ValueError(f"{op} needs a second operand; give an image or a number")
    if op in UNARY and b is not None:
        raise ValueError(f"{op} takes one image; leave the second operand out")
    if not _is_image(a) and not _is_image(b):
        raise ValueError("no image among the operands; give at least one")
    if _is_image(a) and _is_image(b) and np.shape(a[0]) != np.shape(b[0]):
        raise ValueError(f"the images are {_size(a)} and {_size(b)} pixels; resample one to the other's grid first")


def _size(image):
    return "x".join(str(n) for n in np.shape(image[0])[::-1])


def _values(operand):
    """The operand as floats: float32, or float64 where float32 could not hold the integers."""
    if operand is None:
        return None
    if not _is_image(operand):
        return float(operand)
    data = np.asarray(operand[0])
    return data.astype(np.result_type(np.float32, data.dtype), copy=False)


def _said(operand):
    return text(operand[1], "RAWFILE") or "image" if _is_image(operand) else float(operand)


def _linear(op, a, b):
    """(factor, shift) where the operation is ``factor * image + shift``, else None."""
    if b is None:
        return (-1.0, 0.0) if op == "neg" else None
    value = float(b if _is_image(a) else a)
    known = {"add": (1.0, value), "mul": (value, 0.0)}
    known |= (
        {"sub": (1.0, -value), "div": (1 / value if value else 0.0, 0.0)} if _is_image(a) else {"sub": (-1.0, value)}
    )
    return known.get(op)


def _adapt(header, op, a, b):
    """Bring SATURATE, EGAIN, RDNOISE and BUNIT of `header` (in place) in line with the operation."""
    saturate, gain, noise = (number(header, key) for key in ("SATURATE", "EGAIN", "RDNOISE"))
    both = _is_image(a) and _is_image(b)
    factor, shift = (0.0, 0.0) if both else _linear(op, a, b) or (0.0, 0.0)
    kept = {"SATURATE": None, "EGAIN": None, "RDNOISE": None}
    if factor and math.isfinite(factor) and math.isfinite(shift):
        kept = {
            "SATURATE": saturate * factor + shift if saturate is not None and factor > 0 else None,
            "EGAIN": gain / abs(factor) if gain is not None else None,
            "RDNOISE": noise,
        }
    elif both and op in ("add", "sub") and gain is not None and gain == number(b[1], "EGAIN"):
        other = number(b[1], "RDNOISE")
        kept |= {"EGAIN": gain, "RDNOISE": math.hypot(noise, other) if None not in (noise, other) else None}
    for key in kept:
        if key in header:
            header[key] = kept[key]
            if kept[key] is None:
                del header[key]
    if op in ("sqrt", "log", "log10", "exp", "square", "pow", "mul", "div") and (both or _linear(op, a, b) is None):
        header.remove("BUNIT", ignore_missing=True)
