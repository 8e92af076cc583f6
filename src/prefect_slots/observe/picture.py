"""A picture of boxes, lines and words, drawn as SVG and as PNG.

Its layout is done elsewhere; both ways of drawing show the same.
"""

import io
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

# Black on white, as on paper: the picture goes into documents.
INK = "#1a1a1a"
PAPER = "#ffffff"


@dataclass(frozen=True)
class Box:
    """A filled rectangle; `line` is the color of its edge, `note` a tooltip."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    line: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A thin straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str


@dataclass(frozen=True)
class Words:
    """One line of text; `y` is its middle."""

    x: float
    y: float
    text: str
    size: float
    colour: str = INK
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Box | Line | Words


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Shapes in the order in which they are painted."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]


def to_svg(picture: Picture) -> str:
    """Return the picture as an SVG document; boxes carry their notes as tooltips."""
    size = f'width="{picture.width:g}" height="{picture.height:g}" viewBox="0 0 {picture.width:g} {picture.height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="Helvetica, Arial, sans-serif">',
        f"<title>{_xml(picture.title)}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
    ]
    for shape in picture.shapes:
        match shape:
            case Box():
                place = f'x="{shape.x:.2f}" y="{shape.y:.2f}" width="{shape.width:.2f}" height="{shape.height:.2f}"'
                line = f' stroke="{shape.line}"' if shape.line else ""
                note = f"<title>{_xml(shape.note)}</title>" if shape.note else ""
                lines.append(f'<rect {place} fill="{shape.fill}"{line}>{note}</rect>')
            case Line():
                ends = f'x1="{shape.x1:.2f}" y1="{shape.y1:.2f}" x2="{shape.x2:.2f}" y2="{shape.y2:.2f}"'
                lines.append(f'<line {ends} stroke="{shape.colour}"/>')
            case Words():
                place = f'x="{shape.x:.2f}" y="{shape.y:.2f}" font-size="{shape.size:g}"'
                style = f"fill={quoteattr(shape.colour)} text-anchor={quoteattr(shape.anchor)}"
                lines.append(f'<text {place} {style} dominant-baseline="central">{_xml(shape.text)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _xml(text: str) -> str:
    # XML 1.0 knows no way to write a control character.
    return escape("".join(letter if letter.isprintable() else " " for letter in text))


def to_png(picture: Picture, *, scale: int = 2) -> bytes:
    """Return the picture as PNG, `scale` pixels to one of the picture's; needs Pillow."""
    # Imported here: only the demo draws PNG, and Pillow is no dependency of the package itself.
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (round(picture.width * scale), round(picture.height * scale)), PAPER)
    draw = ImageDraw.Draw(image)
    for shape in picture.shapes:
        match shape:
            case Box():
                ends = (shape.x + shape.width, shape.y + shape.height)
                left, top, right, bottom = (round(value * scale) for value in (shape.x, shape.y, *ends))
                # Pillow's rectangles include their last row and column.
                corners = (left, top, max(left, right - 1), max(top, bottom - 1))
                draw.rectangle(corners, fill=shape.fill, outline=shape.line, width=scale)
            case Line():
                ends = [value * scale for value in (shape.x1, shape.y1, shape.x2, shape.y2)]
                draw.line(ends, fill=shape.colour, width=scale)
            case Words():
                font = ImageFont.load_default(shape.size * scale)
                anchor = {"start": "lm", "middle": "mm", "end": "rm"}[shape.anchor]
                draw.text((shape.x * scale, shape.y * scale), shape.text, shape.colour, font=font, anchor=anchor)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
