"""The timeline of a machine: lanes of its cells, with a bar for each holding, laid out as a picture.

A lane is as high as its cell's capacity, so blank parts were free. Requests stand below while they wait, in a light
color. Times are Unix times in seconds.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefect_slots.ledger.queries import Span
from prefect_slots.model import GPU_MEM, format_amount
from prefect_slots.observe.picture import INK, PAPER, Box, Line, Picture, Shape, Words
from prefect_slots.observe.status import CellStatus

# Color-blind readers can tell these apart, too (Paul Tol's "muted"); names stand in the bars and the legend as well.
_COLOURS = (
    "#332288", "#cc6677", "#117733", "#88ccee", "#ddcc77", "#882255", "#44aa99", "#aa4499", "#999933",
)  # fmt: skip
_GREY, _FRAME, _GRID, _LANE = "#5f5f5f", "#b0b0b0", "#dddddd", "#f3f3f3"
_SITE = re.compile(r" \([^()]+:\d+\)$")
# The mean width of a letter as a part of the text's size: neither way of drawing tells a text's width beforehand.
_LETTER = 0.56
_TITLE, _TEXT = 14.0, 12.0
# In pixels: a holding of a third of its cell has room for two lines of text.
_MARGIN, _LANE_HEIGHT, _GAP = 20.0, 84.0, 14.0
# One line of text fits into a waiting request. Twelve rows fit below the lanes; more rows are drawn less high.
_WAIT_HEIGHT = 17.0
_WAITS_HEIGHT = 204.0
# More numbers on the axis of a picture of common width would touch.
_TICKS = 12


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A cell to draw."""

    resource: str
    number: int
    title: str
    capacity: int
    unit: str


def run_of(label: str) -> str:
    """Return the flow run of a label: `"brave-otter"` of `"analyse-3f2 of brave-otter (image_pipeline.py:31)"`."""
    named = _SITE.sub("", label)
    return named.partition(" of ")[2] or named if named != label else label


def lanes_of(cells: Iterable[CellStatus], spans: Iterable[Span]) -> tuple[Lane, ...]:
    """Return a lane for each cell that `spans` name, in the order of `cells`."""
    used = {(span.resource, span.number) for span in spans}
    cells = [cell for cell in cells if (cell.resource, cell.number) in used]
    # A GPU keeps its number even where it is the only one: people know it by that.
    several = {cell.resource for cell in cells if cell.number > 0} | {GPU_MEM}
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


def stacked(spans: Iterable[Span], capacity: int) -> list[tuple[Span, int, int]]:
    """Give each span a place in its cell: `(span, from, to)` in the cell's unit, in pieces that never overlap.

    A span stays in one piece if a gap is large enough for it. It lies above `capacity` only if more than that was held.
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
        # One piece where that is possible, else all gaps and, at worst, the room above the capacity.
        fitting = [gap for gap in gaps if gap[1] - gap[0] >= span.amount]
        left = span.amount
        for low, high in fitting[:1] or [*gaps, (max(capacity, floor), max(capacity, floor) + span.amount)]:
            taken = min(left, high - low)
            if taken > 0:
                live.append((span, low, low + taken))
                placed.append(live[-1])
                left -= taken
    return placed


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """The scale of a picture and the color of each flow run."""

    start: float
    left: float
    right: float
    per_second: float
    colours: dict[str, str]

    def x(self, moment: float) -> float:
        """Return the horizontal place of a moment."""
        return self.left + (moment - self.start) * self.per_second


def layout(spans: Sequence[Span], lanes: Sequence[Lane], *, title: str, width: float = 1100.0) -> Picture:
    """Place every bar and word of the picture.

    Args:
        spans: Holdings; times become seconds after the earliest request.
        lanes: The cells to draw, top to bottom; spans of other cells are left out.
        title: The picture's heading.
        width: The width in pixels; the height follows.
    """
    wanted = {(lane.resource, lane.number) for lane in lanes}
    spans = sorted((s for s in spans if (s.resource, s.number) in wanted), key=lambda s: (s.granted_at, s.grant))
    start = min((span.asked_at for span in spans), default=0.0)
    end = max((span.ended_at for span in spans), default=start + 1.0)
    left = 2 * _MARGIN + max([len(lane.title) for lane in lanes] + [10]) * _TITLE * _LETTER
    right = width - _MARGIN
    runs = dict.fromkeys(run_of(span.label) for span in sorted(spans, key=lambda span: span.asked_at))
    canvas = _Canvas(
        start=start,
        left=left,
        right=right,
        # A run of no length still has a scale.
        per_second=(right - left) / max(end - start, 1e-3),
        colours={run: _COLOURS[place % len(_COLOURS)] for place, run in enumerate(runs)},
    )
    backs: list[Shape] = []
    bars: list[Shape] = [Words(_MARGIN, _MARGIN + 8, title, 18)]
    y = top = _MARGIN + 36
    for lane in lanes:
        own = [span for span in spans if (span.resource, span.number) == (lane.resource, lane.number)]
        backs.append(Box(left, y, right - left, _LANE_HEIGHT, _LANE))
        bars += _lane(lane, own, canvas, y)
        y += _LANE_HEIGHT + _GAP
    waits, height = _waits(spans, canvas, y)
    y += height
    legend, bottom = _legend(canvas, y + 40)
    # In the order of painting: the grid must not cover a bar, nor a lane's back the grid.
    shapes = (*backs, *_axis(canvas, end, top, y), *bars, *waits, *legend)
    return Picture(width=width, height=bottom + _MARGIN, title=title, shapes=shapes)


def _lane(lane: Lane, spans: Sequence[Span], canvas: _Canvas, y: float) -> list[Shape]:
    pieces = stacked(spans, lane.capacity)
    per_unit = _LANE_HEIGHT / max([lane.capacity, *(high for _, _, high in pieces)], default=1)
    floor = y + _LANE_HEIGHT
    shapes = _heading(y + _LANE_HEIGHT / 2, lane.title, _amount(lane.capacity, lane.unit))
    for span, low, high in pieces:
        run, amount = run_of(span.label), _amount(span.amount, lane.unit)
        seconds = span.ended_at - span.granted_at
        times = f"from {span.granted_at - canvas.start:.1f} s to {span.ended_at - canvas.start:.1f} s"
        shapes += _bar(
            Box(
                x=canvas.x(span.granted_at),
                y=floor - high * per_unit,
                width=max(seconds * canvas.per_second, 1.0),
                height=(high - low) * per_unit,
                fill=canvas.colours[run],
                line=PAPER,
                note=f"{span.label}: {amount} of {lane.title}, {times}",
            ),
            (run, f"{amount}, {seconds:.1f} s"),
        )
    ceiling = floor - lane.capacity * per_unit
    return [*shapes, *(Line(canvas.left, edge, canvas.right, edge, _FRAME) for edge in (ceiling, floor))]


def _waits(spans: Sequence[Span], canvas: _Canvas, y: float) -> tuple[list[Shape], float]:
    waited: dict[str, Span] = {}
    for span in spans:
        # A shorter wait is less than a pixel wide.
        if (span.granted_at - span.asked_at) * canvas.per_second >= 1.0:
            waited.setdefault(span.grant, span)
    rows: list[list[Span]] = []
    for span in sorted(waited.values(), key=lambda span: span.asked_at):
        # Waits that do not overlap share a row.
        row = next((row for row in rows if row[-1].granted_at <= span.asked_at), None)
        if row is None:
            rows.append([span])
        else:
            row.append(span)
    if not rows:
        return [], 0.0
    height = min(_WAIT_HEIGHT, _WAITS_HEIGHT / len(rows))
    shapes = _heading(y + len(rows) * height / 2, "waiting", f"{len(waited)} requests")
    for place, row in enumerate(rows):
        for span in row:
            run, seconds = run_of(span.label), span.granted_at - span.asked_at
            shapes += _bar(
                Box(
                    x=canvas.x(span.asked_at),
                    y=y + place * height,
                    width=seconds * canvas.per_second,
                    height=max(height - 2, 1.0),
                    fill=_light(canvas.colours[run]),
                    line=canvas.colours[run],
                    note=f"{span.label}: waited {seconds:.1f} s",
                ),
                (f"{run}, {seconds:.1f} s",),
            )
    return shapes, len(rows) * height


def _heading(middle: float, title: str, below: str) -> list[Shape]:
    return [Words(_MARGIN, middle - 9, title, _TITLE), Words(_MARGIN, middle + 9, below, _TEXT, _GREY)]


def _bar(box: Box, lines: Sequence[str]) -> list[Shape]:
    """Return the box with as many of `lines` as fit into it, each of them whole."""
    pitch = _TEXT + 3
    fitting = [line for line in lines if len(line) * _TEXT * _LETTER + 8 <= box.width][: int((box.height + 2) // pitch)]
    first = box.y + box.height / 2 - (len(fitting) - 1) * pitch / 2
    colour = PAPER if _darkness(box.fill) > 0.5 else INK
    return [
        box,
        *(Words(box.x + 5, first + place * pitch, line, _TEXT, colour) for place, line in enumerate(fitting)),
    ]


def _axis(canvas: _Canvas, end: float, top: float, y: float) -> list[Shape]:
    seconds = end - canvas.start
    steps = (unit * 10**power for power in range(-2, 7) for unit in (1, 2, 5))
    step = next((step for step in steps if seconds <= _TICKS * step), seconds)
    shapes: list[Shape] = [Words(_MARGIN, y + 10, "seconds", _TEXT, _GREY)]
    # A step that ends a hair beyond the last second is still drawn.
    for place in range(int(seconds / step + 1e-9) + 1):
        x = canvas.x(canvas.start + place * step)
        shapes += [
            Line(x, top, x, y, _GRID),
            Words(x, y + 10, f"{place * step:g}", _TEXT, _GREY, "middle"),
        ]
    return shapes


def _legend(canvas: _Canvas, y: float) -> tuple[list[Shape], float]:
    shapes: list[Shape] = []
    x = canvas.left
    for run, colour in canvas.colours.items():
        needed = 18 + len(run) * _TEXT * _LETTER + 18
        if x > canvas.left and x + needed > canvas.right:
            x, y = canvas.left, y + 20
        shapes += [Box(x, y - 6, 12, 12, colour), Words(x + 18, y, run, _TEXT)]
        x += needed
    return shapes, y + 10


def _amount(amount: int, unit: str) -> str:
    return format_amount(amount, unit.removesuffix("s") if amount == 1 else unit)


def _light(colour: str) -> str:
    return "#" + "".join(f"{round(255 - (255 - part) * 0.22):02x}" for part in bytes.fromhex(colour[1:]))


def _darkness(colour: str) -> float:
    red, green, blue = bytes.fromhex(colour[1:])
    # The eye's weights of the three colors (ITU-R BT.601).
    return 1 - (0.299 * red + 0.587 * green + 0.114 * blue) / 255
