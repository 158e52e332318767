"""Pictures as bytes: PNG and JPEG (8 bit), TIFF (16 bit), the right way up, with their place in the sky.

Rows of an image run from the bottom of the sky to its top, those of a picture from the top: `encode` turns them.
"""

import struct
import zlib

import numpy as np

from apfunc.header import number, text

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}


def encode(pixels, header=None, format="png", quality=92):
    """`pixels` as the bytes of a PNG, JPEG or TIFF file.

    pixels  uint8 or uint16, (rows, columns) grey or (rows, columns, 3) colour; row 0 is the bottom of the picture.
            PNG and JPEG hold 8 bits, TIFF as many as there are.
    header  of the image: its WCS, OBJECT and the like become AVM tags (Astronomy Visualization Metadata 1.1, an XMP
            packet), which Aladin, WorldWide Telescope and pyavm read.  Without a celestial WCS: only the text.

    The same input gives the same bytes.  Raises ValueError for an unknown format or an array that is no picture.
    """
    pixels = np.asarray(pixels)
    if (pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3)
            or pixels.ndim == 3 and pixels.shape[2] != 3 or not pixels.size):
        raise ValueError("a picture is an array of uint8 or uint16, (rows, columns) or (rows, columns, 3)")
    writers = {"png": _png, "jpeg": _jpeg, "tiff": _tiff}
    format = FORMATS.get(format if format.startswith(".") else f".{format}".lower(), format)
    if format not in writers:
        raise ValueError(f"unknown picture format {format}; choose png, jpeg or tiff")
    packet = b"" if header is None else avm(header, pixels.shape)
    pixels = pixels[::-1]
    return writers[format](pixels if format == "tiff" else eight(pixels), packet, quality)


def eight(pixels):
    """The upper byte of uint16 pixels; uint8 as it is."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def _png(pixels, packet, quality, strip=128):
    """A PNG by hand: each row as differences from its left neighbour, Huffman coded, and run-length where it is even.

    Three to four times faster than a library's search for the best filter and matches, a tenth larger.
    """
    rows, columns = pixels.shape[:2]
    channels = 3 if pixels.ndim == 3 else 1
    flat = pixels.reshape(rows, -1) if pixels.flags.c_contiguous else pixels
    thin = flat[::64].reshape(-1, columns * channels)
    even = np.count_nonzero(thin[:, channels:] == thin[:, :-channels]) > 0.3 * thin.size  # runs are worth looking for
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE if even else zlib.Z_HUFFMAN_ONLY)
    body = []
    for top in range(0, rows, strip):
        part = np.ascontiguousarray(flat[top:top + strip]).reshape(-1, columns * channels)
        lines = np.empty((len(part), columns * channels + 1), np.uint8)
        lines[:, 0] = 1
        lines[:, 1:channels + 1] = part[:, :channels]
        np.subtract(part[:, channels:], part[:, :-channels], out=lines[:, channels + 1:])
        body.append(packer.compress(lines))
    body.append(packer.flush())
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2 if channels == 3 else 0, 0, 0, 0)),
              (b"sRGB", b"\0")]
    if packet:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    chunks += [(b"IDAT", b"".join(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in chunks)


def _jpeg(pixels, packet, quality):
    import io
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality, subsampling=0,
                                                       **({"xmp": packet} if packet else {}))
    return stream.getvalue()


def _tiff(pixels, packet, quality):
    import io
    import tifffile

    stream = io.BytesIO()
    tags = [(700, 1, len(packet), packet, True)] if packet else []
    tifffile.imwrite(stream, np.ascontiguousarray(pixels), photometric="rgb" if pixels.ndim == 3 else "minisblack",
                     software="apfunc", extratags=tags, metadata=None)
    return stream.getvalue()


def avm(header, shape):
    """The XMP packet (bytes) of the AVM tags that a header gives for a picture of `shape`; empty without any."""
    from xml.sax.saxutils import escape

    def several(kind, values):
        return f"<rdf:{kind}>" + "".join(f"<rdf:li>{v}</rdf:li>" for v in values) + f"</rdf:{kind}>"

    said = {key: escape(value) for key in ("OBJECT", "TELESCOP", "INSTRUME") if (value := text(header, key))}
    tags = {}
    if "OBJECT" in said:
        tags["dc:title"] = f'<rdf:Alt><rdf:li xml:lang="x-default">{said["OBJECT"]}</rdf:li></rdf:Alt>'
        tags["dc:subject"] = several("Bag", [said["OBJECT"]])
    colours = [text(header, f"COLOR{i}").rsplit(" ", 1)[0] for i in range(1, 6) if text(header, f"COLOR{i}")]
    if colours:
        note = text(header, "NOTE") or ""
        plain = [] if " is " in note or "grey" in note else [", ".join(c.replace(" ", " = ", 1) for c in colours)]
        told = "; ".join([*plain, *filter(None, [note])])
        tags["dc:description"] = f'<rdf:Alt><rdf:li xml:lang="x-default">{escape(told)}</rdf:li></rdf:Alt>'
    for tag, key in (("avm:Facility", "TELESCOP"), ("avm:Instrument", "INSTRUME")):
        if key in said:
            tags[tag] = several("Seq", [said[key]])
    for tag, value in _spatial(header, shape).items():
        tags[f"avm:{tag}"] = several("Seq", [repr(float(v)) for v in value]) if isinstance(value, list) else str(value)
    if not tags:
        return b""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:avm="http://www.communicatingastronomy.org/avm/1.0/"><rdf:Description rdf:about="">'
        "<avm:MetadataVersion>1.1</avm:MetadataVersion>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags.items())
        + '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>').encode()


def _spatial(header, shape):
    """The AVM tags of a celestial WCS with equal axes (CD matrix, or CDELT with PC or CROTA2); none without it."""
    types = text(header, "CTYPE1"), text(header, "CTYPE2")
    values = [number(header, k) for k in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")]
    if None in types or None in values or not types[0].startswith("RA--"):
        return {}
    cd = _matrix(header)
    if cd is None:
        return {}
    handed = 1 if cd[0, 0] * cd[1, 1] - cd[0, 1] * cd[1, 0] > 0 else -1
    scale = [float(handed * np.hypot(cd[0, 0], cd[1, 0])), float(np.hypot(cd[0, 1], cd[1, 1]))]
    rotation = float(np.degrees(np.arctan2(-cd[0, 1], cd[1, 1])))
    frame = text(header, "RADESYS") or "ICRS"
    return {
        "Spatial.CoordinateFrame": frame if frame in ("ICRS", "FK5", "FK4") else "ICRS",
        "Spatial.Equinox": number(header, "EQUINOX") or 2000.0, "Spatial.ReferenceValue": values[:2],
        "Spatial.ReferenceDimension": [float(shape[1]), float(shape[0])], "Spatial.ReferencePixel": values[2:],
        "Spatial.Scale": scale, "Spatial.Rotation": rotation,
        "Spatial.CoordsystemProjection": types[0][5:8] or "TAN", "Spatial.Quality": "Full"
    }


def _matrix(header):
    """The CD matrix [degree/pixel] of a header, or None."""
    cd = [[number(header, f"CD{i}_{j}") for j in (1, 2)] for i in (1, 2)]
    if cd[0][0] is not None or cd[0][1] is not None:
        return np.array([[v or 0.0 for v in row] for row in cd])
    step = [number(header, "CDELT1"), number(header, "CDELT2")]
    if None in step:
        return None
    pc = [number(header, f"PC{i}_{j}") for i in (1, 2) for j in (1, 2)]
    turn = np.radians(number(header, "CROTA2") or 0.0)
    if any(v is not None for v in pc):
        turned = np.array([p if p is not None else d for p, d in zip(pc, (1.0, 0.0, 0.0, 1.0))]).reshape(2, 2)
    else:
        turned = np.array([[np.cos(turn), -np.sin(turn) * step[1] / step[0]],
                           [np.sin(turn) * step[0] / step[1], np.cos(turn)]])
    return np.diag(step) @ turned
