"""Which filter is which colour: the palettes that a set of filters allows, and the nearest one to what is missing."""

from apfunc.names import band

# A palette is a dict from role to band.  L gives the luminance, Ha is mixed into R.
PALETTES = {"HaRGB": {"R": "R", "G": "G", "B": "B", "Ha": "Ha"}, "LRGB": {"L": "L", "R": "R", "G": "G", "B": "B"},
            "RGB": {"R": "R", "G": "G", "B": "B"}, "SHO": {"R": "SII", "G": "Ha", "B": "OIII"},
            "HOO": {"R": "Ha", "G": "OIII", "B": "OIII"}}
WAVELENGTH = {"u": 355, "U": 365, "B": 440, "g": 477, "Hb": 486, "OIII": 501, "G": 530, "V": 551, "L": 560, "r": 623,
              "R": 640, "Ha": 656, "NII": 658, "SII": 672, "i": 763, "I": 800, "z": 905}  # nm
VISIBLE = (640, 540, 450)  # what red, green and blue would be
NARROW = ("Ha", "Hb", "OIII", "SII", "NII")


def palettes_for(filters):
    """The pictures worth making from `filters`, best first: {palette: list of the filters it uses}.

    In natural colours HaRGB and LRGB, else RGB; in narrow bands SHO, else HOO; where there is neither, the nearest that
    `palette_for` finds.  Empty without filters.
    """
    have = _bands(filters)
    names = [name for name, roles in PALETTES.items() if set(roles.values()) <= set(have)]
    for better, worse in (("SHO", "HOO"), ("HaRGB", "RGB"), ("LRGB", "RGB")):
        if better in names and worse in names:
            names.remove(worse)
    broad = [b for b in have if b in WAVELENGTH and b not in (*NARROW, "L")]
    if have and (not names or len(broad) > 2 and not set(names) & {"HaRGB", "LRGB", "RGB"}):
        name, roles = _nearest(have)
        return {name: list(dict.fromkeys(roles.values()))} | {n: _used(palette_for(filters, n)) for n in names}
    return {name: _used(palette_for(filters, name)) for name in names}


def _used(found):
    return list(dict.fromkeys(found[1].values()))


def palette_for(filters, wanted=None):
    """(palette, roles, note): the palette `wanted`, or the best, or the nearest that `filters` allow.

    filters  names as they are in the headers; what they mean is `apfunc.names.band`'s.
    wanted   a name of PALETTES; three filters by name for red, green and blue ("SII,OIII,Ha"); or None for the best.

    roles maps R, G, B and perhaps L and Ha to the filters given; a grey picture has only L, and its palette has the
    name of its filter.  With two filters R and B are given and G is absent: their mean.  note says what is missing
    and what is done instead, or is None.  Raises ValueError without filters, or for a name that says nothing.
    """
    have = _bands(filters)
    if not have:
        raise ValueError("no filter given; a composite needs at least one image")
    if wanted and wanted not in PALETTES:
        return _by_name(have, filters, wanted)
    for name in [wanted] if wanted else PALETTES:
        roles = PALETTES[name]
        if set(roles.values()) <= set(have):
            full = {role: have[b] for role, b in roles.items()}
            if name == "HaRGB" and "L" in have:
                full["L"] = have["L"]
            return name, full, None
    missing = [b for b in PALETTES[wanted].values() if b not in have] if wanted else []
    said = f"no {' and no '.join(dict.fromkeys(missing))} for {wanted}: " if wanted else ""
    for name in PALETTES if wanted else ():
        if set(PALETTES[name].values()) <= set(have):
            return palette_for(filters, name)[:2] + (f"{said}{name} instead",)
    name, roles = _nearest(have)
    ordered = ", ".join(f"{role} is {name}" for role, name in roles.items())
    return name, roles, said + (ordered if set(roles) != {"L"} else f"grey picture of {roles['L']}")


def _bands(filters):
    have = {}
    for name in filters:
        have.setdefault(band(name), name)
    return have


def _by_name(have, filters, wanted):
    """Three images by name, in the order red, green, blue; or one filter, grey."""
    names = [n.strip() for n in wanted.replace("=", ",").split(",")]
    names = [n for n in names if n not in ("R", "G", "B") or "=" not in wanted]
    chosen = [next((f for f in filters if n in (f, _plain(f))), have.get(band(n))) for n in names]
    if len(names) == 1 and chosen[0] is not None:
        return _plain(band(chosen[0])), {"L": chosen[0]}, None
    if len(names) == 1:  # a name such as zrg, made by _nearest
        name, roles = _nearest(have)
        if name == wanted:
            return name, roles, None
    if len(names) != 3 or None in chosen:
        lost = [n for n, c in zip(names, chosen) if c is None]
        raise ValueError(f"no palette {wanted}{' (no image of ' + ', '.join(lost) + ')' if len(names) == 3 else ''}; "
                         f"choose {', '.join(PALETTES)}, or three of {', '.join(map(str, filters))} as RED,GREEN,BLUE")
    return "".join(_plain(band(c)) for c in chosen), dict(zip("RGB", chosen)), None


def _plain(name):
    return "".join(c for c in str(name) if c.isalnum()) or "grey"


def _nearest(have):
    """(palette, roles) from whatever there is, the longer wavelength the redder."""
    from itertools import combinations

    order = sorted(have, key=lambda b: (-WAVELENGTH.get(b, 0), b))
    colours = [b for b in order if b != "L"]
    broad = [b for b in colours if b not in NARROW]
    pool = broad if len(broad) >= 3 else colours
    if "Ha" in have and {"r", "g"} <= set(broad) and not {"R", "B"} & set(broad):
        roles, name = {"R": "r", "B": "g", "Ha": "Ha"}, "HaRGB"  # nearer to what the eye would see than one with i or z
    elif len(pool) >= 3:
        best = min(combinations(pool, 3),
                   key=lambda three: sum(abs(WAVELENGTH.get(b, 0) - w) for b, w in zip(three, VISIBLE)))
        roles = dict(zip("RGB", best))
        name = "RGB" if pool is broad else "".join(_plain(b) for b in best)
        if pool is broad and "Ha" in have:
            name, roles = "HaRGB", roles | {"Ha": "Ha"}
        if "L" in have:
            name, roles = {"RGB": "LRGB"}.get(name, name), roles | {"L": "L"}
    elif len(colours) == 2 and set(colours) <= set(NARROW):
        roles = {"R": colours[0], "G": colours[1], "B": colours[1]}
        name = "".join(b[0] for b in roles.values())
    elif len(order) == 1:
        roles, name = {"L": order[0]}, _plain(order[0])
    else:
        roles = dict(zip("RB", colours if len(colours) == 2 else order))
        name = "".join(_plain(b) for b in roles.values())
        if len(colours) == 2 and "L" in have:
            name, roles = name + "L", roles | {"L": "L"}
    return name, {role: have[b] for role, b in roles.items()}
