"""Every option of the command line, defined once: the same word means the same thing in every command."""

from click import Choice, Option

OPTIONS = {
    # files
    "output": Option(["-o", "--output"], metavar="OUT",
                     help="Output: a path, - (stdout), or for many inputs a template "
                     "with {stem} {dir} {object} {filter} {night}."),
    "bias": Option(["--bias"], metavar="FILE", help="Master bias."),
    "dark": Option(["--dark"], metavar="FILE", help="Master dark."),
    "flat": Option(["--flat"], metavar="FILE", help="Master flat."),
    "flats": Option(["--flat", "flats"], metavar="FILE", multiple=True,
                    help="Master flat; may be given several times."),
    "badpix": Option(["--badpix"], metavar="FILE", help="Bad-pixel map; non-zero is bad."),
    "mask": Option(["--mask"], metavar="FILE", help="Mask to use in place of the image's own MASK extension."),
    "catalog": Option(["--catalog"], metavar="FILE",
                      help="Your own star catalogue: a table with ra, dec [deg] and mag."),
    "like": Option(["--like"], metavar="FILE", help="Take the grid (WCS and size) from this image."),
    "table": Option(["--table"], metavar="FILE",
                    help="Gain and read noise as measured by `apfunc readnoise`, for frames "
                    "whose header has none."),
    "inventory": Option(["--inventory"], metavar="FILE", help="The frames.ecsv of `apfunc plan`."),
    # numbers that mean the same everywhere
    "sigma": Option(["--sigma"], type=float, metavar="K", help="Threshold in standard deviations."),
    "fwhm": Option(["--fwhm"], type=float, metavar="PIXELS", help="Full width at half maximum of a star."),
    "gain": Option(["--gain"], type=float, metavar="E/ADU", help="Gain [electron/adu]; wins over the header."),
    "readnoise": Option(["--readnoise"], type=float, metavar="E", help="Read noise [electron]; wins over the header."),
    "saturate": Option(["--saturate"], type=float, metavar="ADU", help="Saturation level [adu]; wins over the header."),
    "box": Option(["--box"], type=int, metavar="PIXELS", help="Mesh size of the background."),
    # metadata by hand
    "object": Option(["--object"], metavar="NAME", help="The target's name, where header and file name have none."),
    "filter": Option(["--filter"], metavar="NAME", help="The filter's name, where header and file name have none."),
    "latitude": Option(["--latitude"], type=float, metavar="DEG",
                       help="Latitude of the site, where the header has none."),
    "longitude": Option(["--longitude"], type=float, metavar="DEG", help="Longitude of the site, east positive."),
    "elevation": Option(["--elevation"], type=float, metavar="M", help="Elevation of the site."),
    # frames by hand
    "keep": Option(["--keep"], metavar="NAMES", default="",
                   help="Frames to accept whatever is measured (names with spaces between)."),
    "drop": Option(["--drop"], metavar="NAMES", default="", help="Frames to reject whatever is measured."),
    "update": Option(["--update"], is_flag=True, help="Only images that are newer than what was made of them."),
    "shared": Option(["--shared"], metavar="FILES", default="",
                     help="With --update: all images, when one of these (spaces between) is newer."),
    # what becomes of a frame that cannot be done
    "record": Option(["--record-failure"], is_flag=True,
                     help="A frame that cannot be done is no error: its output holds the "
                     "reason and no image (make uses this)."),
}


def choice(name, *words, help):
    """An option that takes one of `words`."""
    return Option([f"--{name}"], type=Choice(words), help=help)


def number(name, metavar, help, type=float):
    """An option that takes a number."""
    return Option([f"--{name}"], type=type, metavar=metavar, help=help)


def flag(name, help):
    """An option that is there or not."""
    return Option([f"--{name}"], is_flag=True, help=help)


def given(values):
    """Only the options that were given: for the rest the stage's own defaults stand."""
    return {name: value for name, value in values.items() if not any(value is nothing for nothing in (None, False, ()))}
