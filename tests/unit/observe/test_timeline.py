"""The timeline: what is drawn is what was held, never more than a cell has, and any reader of SVG or PNG reads it."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prefect_slots.ledger.queries import Span
from prefect_slots.observe.picture import Box, Line, Picture, Words, to_png, to_svg
from prefect_slots.observe.status import CellStatus
from prefect_slots.observe.timeline import Lane, lanes_of, layout, run_of, stacked

CARD = Lane(resource="gpu_mem", number=0, title="gpu_mem 0", capacity=24576, unit="MiB")
SEATS = Lane(resource="license.matlab", number=0, title="license.matlab", capacity=2, unit="seats")
SVG = "{http://www.w3.org/2000/svg}"


def span(
    run: str, asked: float, granted: float, ended: float, amount: int = 16384, *, lane: Lane = CARD, grant: str = ""
) -> Span:
    return Span(
        grant=grant or run,
        label=f"analyse-3f2 of {run} (image_pipeline.py:31)",
        pid=1,
        resource=lane.resource,
        number=lane.number,
        amount=amount,
        asked_at=asked,
        granted_at=granted,
        ended_at=ended,
    )


def boxes(picture: Picture, note: str) -> list[Box]:
    return [shape for shape in picture.shapes if isinstance(shape, Box) and note in shape.note]


def words(picture: Picture) -> list[str]:
    return [shape.text for shape in picture.shapes if isinstance(shape, Words)]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """A capacity, and holdings as a scheduler that never over-commits would leave them."""
    capacity = draw(st.integers(1, 20))
    held: dict[str, tuple[int, float]] = {}
    done: list[Span] = []
    for moment in range(draw(st.integers(1, 40))):
        # Some end and some begin at the very same moment, as when a cell is handed over.
        for name in draw(st.lists(st.sampled_from(sorted(held)), unique=True)) if held else ():
            amount, since = held.pop(name)
            done.append(span(name, since, since, moment, amount))
        free = capacity - sum(amount for amount, _ in held.values())
        if free and draw(st.booleans()):
            held[f"run-{moment}"] = (draw(st.integers(1, free)), float(moment))
    done += [span(name, since, since, 100.0, amount) for name, (amount, since) in held.items()]
    return capacity, [entry for entry in done if entry.ended_at > entry.granted_at]


def overlapping(one: tuple[Span, int, int], other: tuple[Span, int, int]) -> bool:
    in_time = one[0].granted_at < other[0].ended_at and other[0].granted_at < one[0].ended_at
    return in_time and one[1] < other[2] and other[1] < one[2]


@given(schedules())
def test_what_was_held_within_the_capacity_is_drawn_within_it_and_nothing_covers_anything(
    drawn: tuple[int, list[Span]],
):
    capacity, spans = drawn
    pieces = stacked(spans, capacity)
    assert all(0 <= low < high <= capacity for _, low, high in pieces)
    assert not [pair for pair in combinations(pieces, 2) if overlapping(*pair)]
    for entry in spans:
        assert sum(high - low for piece, low, high in pieces if piece is entry) == entry.amount


def test_a_holding_that_finds_no_whole_gap_is_drawn_in_parts():
    spans = [span("low", 0, 0, 9, 1), span("gap", 0, 0, 2, 1), span("top", 0, 0, 9, 1), span("two", 0, 3, 9, 2)]
    parts = [(low, high) for piece, low, high in stacked(spans, 4) if piece.grant == "two"]
    assert sorted(parts) == [(0, 1), (3, 4)]


def test_what_was_held_beyond_the_capacity_shows_above_the_line():
    picture = layout([span("a", 0, 0, 9, 2, lane=SEATS), span("b", 0, 1, 9, 1, lane=SEATS)], [SEATS], title="cut")
    (inside,), (above,) = boxes(picture, "2 seats of"), boxes(picture, "1 seat of")
    assert above.y + above.height == pytest.approx(inside.y)
    line = min(shape.y1 for shape in picture.shapes if isinstance(shape, Line) and shape.y1 == shape.y2)
    assert line == pytest.approx(inside.y)


@pytest.mark.parametrize(
    ("label", "run"),
    [
        ("analyse-3f2 of brave-otter (image_pipeline.py:31)", "brave-otter"),
        ("brave-otter (flow.py:3)", "brave-otter"),
        ("with block (train.py:7)", "with block"),
        ("python out of memory.py", "python out of memory.py"),
        ("", ""),
    ],
)
def test_a_label_tells_whose_holding_it_is(label: str, run: str):
    assert run_of(label) == run


def test_a_bar_is_as_long_as_the_holding_and_as_high_as_its_part_of_the_cell():
    spans = [span("one", 0, 0, 10), span("two", 4, 10, 15, 12288)]
    picture = layout(spans, [CARD], title="t")
    (one,), (two, wait) = boxes(picture, "of one "), boxes(picture, "of two ")
    assert one.width == pytest.approx(2 * two.width)
    assert one.height / two.height == pytest.approx(16384 / 12288)
    assert two.x == pytest.approx(one.x + one.width)
    assert wait.x + wait.width == pytest.approx(two.x)
    assert wait.width == pytest.approx(0.6 * one.width)
    assert wait.y > one.y + one.height, "who waits stands below the cells"
    assert wait.fill != two.fill
    assert wait.line == two.fill, "in the colour of its run, lighter"


def test_a_wait_is_drawn_once_however_many_cells_it_was_for():
    spans = [span("a", 0, 5, 9), span("a", 0, 5, 9, 1, lane=SEATS)]
    assert len(boxes(layout(spans, [CARD, SEATS], title="t"), "waited 5.0 s")) == 1


def test_nobody_waiting_leaves_no_room_for_waiting():
    assert "waiting" not in words(layout([span("a", 0, 0, 9)], [CARD], title="t"))


def test_amounts_times_and_names_can_be_read():
    spans = [span("astronaut", 0, 0, 9), span("astronaut", 0, 0, 9, 1, lane=SEATS)]
    shown = words(layout(spans, [CARD, SEATS], title="Who held what"))
    assert {"Who held what", "gpu_mem 0", "24GiB", "2 seats", "astronaut", "16GiB, 9.0 s", "1 seat, 9.0 s"} <= set(
        shown
    )
    assert shown.count("astronaut") == 3, "in both bars and in the legend"


def test_everything_stands_inside_the_picture_and_words_inside_their_bars():
    spans: list[Span] = []
    for place in range(60):
        start = place * 0.7
        spans.append(span(f"a-rather-long-run-name-{place}", start - place * 0.3, start, start + 1.3))
    picture = layout(spans, [CARD], title="crowded")
    for shape in picture.shapes:
        if isinstance(shape, Box):
            assert shape.x >= 0
            assert shape.x + shape.width <= picture.width + 0.01
            assert shape.y + shape.height <= picture.height
        if isinstance(shape, Words):
            assert 0 < shape.y < picture.height
    narrow = [box for box in boxes(picture, "16GiB of") if box.width < 40]
    assert narrow
    inside = [w for w in picture.shapes if isinstance(w, Words) and any(_within(w, box) for box in narrow)]
    assert inside == []


def _within(word: Words, box: Box) -> bool:
    return box.x <= word.x <= box.x + box.width and box.y <= word.y <= box.y + box.height


@pytest.mark.parametrize("seconds", [0.004, 0.9, 18.0, 3600.0, 86400.0 * 3])
def test_the_axis_has_a_readable_number_of_round_marks(seconds: float):
    picture = layout([span("a", 1e9, 1e9, 1e9 + seconds)], [CARD], title="t")
    marks = [float(w.text) for w in picture.shapes if isinstance(w, Words) and w.anchor == "middle"]
    assert marks[0] == 0
    assert len(marks) <= 14
    assert marks[-1] <= seconds


def test_nothing_held_is_a_picture_too():
    picture = layout([], [CARD], title="nothing yet")
    assert ET.fromstring(to_svg(picture)).tag == f"{SVG}svg"
    assert to_png(picture).startswith(b"\x89PNG")


NASTY = "</title><script>alert('&amp;')</script> \"q\" 'q' \x00\x08 \ud7ff é"


def test_whatever_a_run_is_called_the_svg_is_well_formed_and_says_it():
    picture = layout([span(NASTY, 0, 3, 9)], [CARD], title=NASTY)
    root = ET.fromstring(to_svg(picture))
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds == {"svg", "title", "rect", "line", "text"}
    said = "".join(title.text or "" for title in root.iter(f"{SVG}title"))
    assert "</title><script>alert('&amp;')</script> \"q\" 'q'" in said


def test_svg_and_png_show_the_same_bars_in_the_same_places():
    spans = [span("one", 0, 0, 10), span("two", 4, 10, 15)]
    picture = layout(spans, [CARD], title="t")
    image = Image.open(io.BytesIO(to_png(picture, scale=2)))
    assert image.size == (round(picture.width * 2), round(picture.height * 2))
    drawn = {
        (rect.get("x"), rect.get("y"), rect.get("fill"))
        for rect in ET.fromstring(to_svg(picture)).iter(f"{SVG}rect")
    }  # fmt: skip
    for run in ("one", "two"):
        bar = boxes(picture, f"of {run} ")[0]
        assert (f"{bar.x:.2f}", f"{bar.y:.2f}", bar.fill) in drawn
        # Near the right edge, where no word is.
        corner = (int((bar.x + bar.width - 6) * 2), int((bar.y + bar.height / 2) * 2))
        assert image.convert("RGB").getpixel(corner) == _rgb(bar.fill)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def cell(resource: str, number: int) -> CellStatus:
    return CellStatus(
        resource=resource,
        number=number,
        key="",
        label="",
        unit="MiB",
        scope="worker",
        origin="nvml",
        capacity=24576,
        foreign=0,
        held=0,
        free=24576,
        present=True,
        lost=False,
        holders=(),
    )


def titles(cells: Sequence[CellStatus], spans: Sequence[Span]) -> list[str]:
    return [lane.title for lane in lanes_of(cells, spans)]


def test_there_is_a_lane_for_each_cell_that_was_used():
    cells = [cell("cpus", 0), cell("gpu_mem", 0), cell("gpu_mem", 1), cell("license.matlab", 0)]
    used = [span("a", 0, 0, 1, lane=SEATS), span("a", 0, 0, 1)]
    assert titles(cells, used) == ["gpu_mem 0", "license.matlab"]
