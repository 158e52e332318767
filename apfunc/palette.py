"""Which filter is which colour: the palettes that a set of filters allows, and the nearest one to what is missing."""

from apfunc.names import band

# A palette is a dict from role to band.  L gives the luminance, Ha is mixed into R.
PALETTES = {"HaRGB": {"R": "R", "G": "G", "B": "B", "Ha": "Ha"},
            "LRGB": {"L": "L", "R": "R", "G": "G", "B": "B"},
            "RGB": {"R": "R", "G": "G", "B": "B"},
            "SHO": {"R": "SII", "G": "Ha", "B": "OIII"},
            "HOO": {"R": "Ha", "G": "OIII", "B": "OIII"}}
WAVELENGTH = {"u": 355, "U": 365, "B": 440, "g": 477, "Hb": 486, "OIII": 501, "G": 530, "V": 551, "L": 560, "r": 623, "R": 640,
              "Ha": 656, "NII": 658, "SII": 672, "i": 763, "I": 800, "z": 905}  # nm
NARROW = ("Ha", "Hb", "OIII", "SII", "NII")


def palettes_for(filters):
    """The pictures worth making from `filters`, best first: {palette: list of the filters it uses}.

    One in natural colours (HaRGB or RGB, and LRGB), one in each narrow-band palette there is all for; else the
    nearest to them that `palette_for` finds.  Empty without filters.
    """
    have = _bands(filters)
    found = {name: [have[b] for b in dict.fromkeys(roles.values())] for name, roles in PALETTES.items() if set(roles.values()) <= set(have)}
    if "SHO" in found:
        found.pop("HOO")
    if "HaRGB" in found or "LRGB" in found:
        found.pop("RGB")
    broad = sum(b not in NARROW and b in WAVELENGTH and b != "L" for b in have)
    if not found or broad >= 3 and not set(found) & {"HaRGB", "LRGB", "RGB"}:
        name, roles, _ = palette_for(filters) if filters else (None, {}, None)
        found = ({name: list(dict.fromkeys(roles.values()))} if name else {}) | found
    return found


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
    names = [n.strip() for n in wanted.replace("=", ",").split(",") if n.strip() not in ("R", "G", "B") or "=" not in wanted]
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
    order = sorted(have, key=lambda b: (-WAVELENGTH.get(b, 0), b))
    broad = [b for b in order if b not in NARROW and b != "L"]
    colours = broad if len(broad) >= 3 else [b for b in order if b != "L"]
    if len(broad) == 2 and len(colours) > 3:
        colours = broad + [b for b in colours if b not in broad][:1]
        colours.sort(key=order.index)
    if len(colours) >= 3:
        middle = min(colours[1:-1], key=lambda b: abs(WAVELENGTH.get(b, 0) - (WAVELENGTH.get(colours[0], 0) + WAVELENGTH.get(colours[-1], 0)) / 2))
        roles = {"R": colours[0], "G": middle, "B": colours[-1]}
        name = "RGB" if len(broad) >= 3 else "".join(_plain(b) for b in roles.values())
        if len(broad) >= 3 and "Ha" in have:
            name, roles = "HaRGB", roles | {"Ha": "Ha"}
        if "L" in have:
            name, roles = {"RGB": "LRGB"}.get(name, name), roles | {"L": "L"}
    elif len(colours) == 2 and set(colours) <= set(NARROW):
        roles = {"R": colours[0], "G": colours[1], "B": colours[1]}
        name = "".join(_plain(b)[0] for b in roles.values())
    elif len(colours) == 2:
        roles = {"R": colours[0], "B": colours[1]} | ({"L": "L"} if "L" in have else {})
        name = "".join(_plain(b) for b in colours)
    elif len(order) == 2:  # luminance and one colour
        roles = dict(zip("RB", order))
        name = "".join(_plain(b) for b in order)
    else:
        roles, name = {"L": order[0]}, _plain(order[0])
    return name, {role: have[b] for role, b in roles.items()}
