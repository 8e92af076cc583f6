"""Who held which cell when: rows from the ledger's history, and a picture of them.

In a cell's lane the height is its capacity, so that what is blank was free; what was asked for and not yet granted
stands below, light. Times are Unix times in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from prefect_slots.ledger.queries import Span
from prefect_slots.model.amount import format_amount
from prefect_slots.observe.picture import INK, PAPER, Box, Line, Picture, Shape, Words
from prefect_slots.observe.status import CellStatus

# Told apart by colour-blind readers too (Paul Tol's "muted"); names stand in the bars and the legend as well.
_COLOURS: Final = (
    "#332288", "#cc6677", "#117733", "#88ccee", "#ddcc77", "#882255", "#44aa99", "#aa4499", "#999933",
)  # fmt: skip
_GREY, _FRAME, _GRID, _LANE = "#5f5f5f", "#b0b0b0", "#dddddd", "#f3f3f3"
_SITE: Final = re.compile(r" \([^()]+:\d+\)$")
_LETTER: Final = 0.56  # mean width of a letter, as a part of the text's size

_MARGIN, _LANE_HEIGHT, _GAP = 20.0, 84.0, 14.0
_WAIT_HEIGHT: Final = 17.0
_WAITS_HEIGHT: Final = 204.0
_TICKS: Final = 12


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A cell to draw: its name and its capacity."""

    resource: str
    number: int
    title: str
    capacity: int
    unit: str


def run_of(label: str) -> str:
    """Return whose holding it is: `"brave-otter"` of `"analyse-3f2 of brave-otter (image_pipeline.py:31)"`."""
    named = _SITE.sub("", label)
    return named.partition(" of ")[2] or named if named != label else label


def lanes_of(cells: Iterable[CellStatus], spans: Iterable[Span]) -> tuple[Lane, ...]:
    """Return a lane for each cell that `spans` name, in the order of `cells`."""
    used = {(span.resource, span.number) for span in spans}
    cells = [cell for cell in cells if (cell.resource, cell.number) in used]
    several = {cell.resource for cell in cells if cell.number > 0} | {"gpu_mem"}
    return tuple(
        Lane(
            resource=cell.resource,
            number=cell.number,
            title=f"{cell.resource} {cell.number}" if cell.resource in several else cell.resource,
            capacity=cell.capacity,
            unit=cell.unit,
        )
        for cell in cells
    )


# Where everything stands


def layout(spans: Sequence[Span], lanes: Sequence[Lane], *, title: str, width: float = 1100.0) -> Picture:
    """Say where each bar and word of the picture stands.

    Args:
        spans: What was held; times become seconds after the earliest request.
        lanes: The cells to draw, top to bottom; spans of other cells are left out.
        title: The picture's heading.
        width: In pixels; the height follows.
    """
    wanted = {(lane.resource, lane.number) for lane in lanes}
    spans = sorted((s for s in spans if (s.resource, s.number) in wanted), key=lambda s: (s.granted_at, s.grant))
    start = min((span.asked_at for span in spans), default=0.0)
    end = max((span.ended_at for span in spans), default=start + 1.0)
    left = 2 * _MARGIN + max([len(lane.title) for lane in lanes] + [10]) * 14 * _LETTER
    scale = Scale(start=start, left=left, per_second=(width - left - _MARGIN) / max(end - start, 1e-3))
    runs = list(dict.fromkeys(run_of(s.label) for s in sorted(spans, key=lambda s: s.asked_at)))
    colours = {run: _COLOURS[place % len(_COLOURS)] for place, run in enumerate(runs)}

    backs: list[Shape] = []
    bars: list[Shape] = [Words(x=_MARGIN, y=_MARGIN + 8, text=title, size=18)]
    y = top = _MARGIN + 36
    for lane in lanes:
        own = [span for span in spans if (span.resource, span.number) == (lane.resource, lane.number)]
        backs.append(Box(x=left, y=y, width=width - _MARGIN - left, height=_LANE_HEIGHT, fill=_LANE))
        bars += _lane(lane, own, colours, scale, y, width)
        y += _LANE_HEIGHT + _GAP
    waits, height = _waits(spans, colours, scale, y)
    bars += waits
    y += height
    grid = _axis(scale, end, top, y)
    legend, bottom = _legend(colours, left, y + 40, width - _MARGIN)
    return Picture(width=width, height=bottom + _MARGIN, title=title, shapes=(*backs, *grid, *bars, *legend))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Turns a time into a place on the picture."""

    start: float
    left: float
    per_second: float

    def x(self, moment: float) -> float:
        """Return how far from the left a moment stands."""
        return self.left + (moment - self.start) * self.per_second


def stacked(spans: Iterable[Span], capacity: int) -> list[tuple[Span, int, int]]:
    """Give each span a place in its cell: `(span, from, to)` in the cell's unit, parts that never overlap.

    A span lies in one piece where there is a gap for it and in several where there is not, and above `capacity` only
    if more than that was held.
    """
    placed: list[tuple[Span, int, int]] = []
    live: list[tuple[Span, int, int]] = []
    for span in sorted(spans, key=lambda span: (span.granted_at, span.ended_at)):
        live = [piece for piece in live if piece[0].ended_at > span.granted_at]
        gaps: list[tuple[int, int]] = []
        floor = 0
        for _, low, high in sorted(live, key=lambda piece: piece[1]):
            if low > floor:
                gaps.append((floor, low))
            floor = max(floor, high)
        gaps.append((floor, max(capacity, floor)))
        fitting = [gap for gap in gaps if gap[1] - gap[0] >= span.amount]
        left = span.amount
        for low, high in fitting[:1] or [*gaps, (max(capacity, floor), max(capacity, floor) + span.amount)]:
            taken = min(left, high - low)
            if taken > 0:
                live.append((span, low, low + taken))
                placed.append(live[-1])
                left -= taken
    return placed


def _lane(
    lane: Lane, spans: Sequence[Span], colours: dict[str, str], scale: Scale, y: float, width: float
) -> list[Shape]:
    pieces = stacked(spans, lane.capacity)
    per_unit = _LANE_HEIGHT / max([lane.capacity, *(high for _, _, high in pieces)], default=1)
    floor = y + _LANE_HEIGHT
    ceiling = floor - lane.capacity * per_unit
    right = width - _MARGIN
    shapes: list[Shape] = [
        Words(x=_MARGIN, y=y + _LANE_HEIGHT / 2 - 9, text=lane.title, size=14),
        Words(x=_MARGIN, y=y + _LANE_HEIGHT / 2 + 9, text=_amount(lane.capacity, lane.unit), size=12, colour=_GREY),
    ]
    for span, low, high in pieces:
        run, amount = run_of(span.label), _amount(span.amount, lane.unit)
        x, bar = scale.x(span.granted_at), max((span.ended_at - span.granted_at) * scale.per_second, 1.0)
        box = Box(
            x=x,
            y=floor - high * per_unit,
            width=bar,
            height=(high - low) * per_unit,
            fill=colours[run],
            line=PAPER,
            note=f"{span.label}: {amount} of {lane.title}, {_times(span, scale.start)}",
        )
        shapes += [box, *_words_in(box, (run, f"{amount}, {span.ended_at - span.granted_at:.1f} s"))]
    edges = [Line(x1=scale.left, y1=edge, x2=right, y2=edge, colour=_FRAME) for edge in (ceiling, floor)]
    return [*shapes, *edges]


def _waits(spans: Sequence[Span], colours: dict[str, str], scale: Scale, y: float) -> tuple[list[Shape], float]:
    waited: dict[str, Span] = {}
    for span in spans:
        if (span.granted_at - span.asked_at) * scale.per_second >= 1.0:
            waited.setdefault(span.grant, span)
    rows: list[list[Span]] = []
    for span in sorted(waited.values(), key=lambda span: span.asked_at):
        row = next((row for row in rows if row[-1].granted_at <= span.asked_at), None)
        if row is None:
            rows.append([span])
        else:
            row.append(span)
    if not rows:
        return [], 0.0
    height = min(_WAIT_HEIGHT, _WAITS_HEIGHT / len(rows))
    shapes: list[Shape] = [
        Words(x=_MARGIN, y=y + len(rows) * height / 2 - 9, text="waiting", size=14),
        Words(x=_MARGIN, y=y + len(rows) * height / 2 + 9, text=f"{len(waited)} requests", size=12, colour=_GREY),
    ]
    for place, row in enumerate(rows):
        for span in row:
            run, seconds = run_of(span.label), span.granted_at - span.asked_at
            box = Box(
                x=scale.x(span.asked_at),
                y=y + place * height,
                width=seconds * scale.per_second,
                height=max(height - 2, 1.0),
                fill=_light(colours[run]),
                line=colours[run],
                note=f"{span.label}: waited {seconds:.1f} s",
            )
            shapes += [box, *_words_in(box, (f"{run}, {seconds:.1f} s",))]
    return shapes, len(rows) * height


def _words_in(box: Box, lines: Sequence[str], size: float = 12.0) -> list[Words]:
    """Return as many of `lines` as fit into the box, each of them whole."""
    colour = PAPER if _darkness(box.fill) > 0.5 else INK
    room = int((box.height + 2) // (size + 3))
    fitting = [line for line in lines if len(line) * size * _LETTER + 8 <= box.width][:room]
    first = box.y + box.height / 2 - (len(fitting) - 1) * (size + 3) / 2
    return [
        Words(x=box.x + 5, y=first + place * (size + 3), text=line, size=size, colour=colour)
        for place, line in enumerate(fitting)
    ]


def _axis(scale: Scale, end: float, top: float, y: float) -> list[Line | Words]:
    seconds = end - scale.start
    step = next(
        (unit * 10**power for power in range(-2, 7) for unit in (1, 2, 5) if seconds <= _TICKS * unit * 10**power),
        seconds,
    )
    shapes: list[Line | Words] = []
    for place in range(int(seconds / step + 1e-9) + 1):
        x = scale.x(scale.start + place * step)
        shapes += [
            Line(x1=x, y1=top, x2=x, y2=y, colour=_GRID),
            Words(x=x, y=y + 10, text=f"{place * step:g}", size=12, colour=_GREY, anchor="middle"),
        ]
    return [*shapes, Words(x=_MARGIN, y=y + 10, text="seconds", size=12, colour=_GREY)]


def _legend(colours: dict[str, str], left: float, y: float, right: float) -> tuple[list[Box | Words], float]:
    shapes: list[Box | Words] = []
    x = left
    for run, colour in colours.items():
        needed = 18 + len(run) * 12 * _LETTER + 18
        if x > left and x + needed > right:
            x, y = left, y + 20
        shapes += [
            Box(x=x, y=y - 6, width=12, height=12, fill=colour),
            Words(x=x + 18, y=y, text=run, size=12),
        ]
        x += needed
    return shapes, y + 10


def _amount(amount: int, unit: str) -> str:
    return format_amount(amount, unit.removesuffix("s") if amount == 1 else unit)


def _times(span: Span, start: float) -> str:
    return f"from {span.granted_at - start:.1f} s to {span.ended_at - start:.1f} s"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _light(colour: str) -> str:
    return "#" + "".join(f"{round(255 - (255 - part) * 0.22):02x}" for part in _rgb(colour))


def _darkness(colour: str) -> float:
    red, green, blue = _rgb(colour)
    return 1 - (0.299 * red + 0.587 * green + 0.114 * blue) / 255
