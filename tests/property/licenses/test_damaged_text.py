"""However a server's answer is damaged, reading it ends in counts or words, and the same with and without names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import ODD
from tests.unit.detect.licenses import test_dsls, test_flexnet, test_lmx, test_lsdyna, test_olicense, test_rlm
from tests.unit.detect.licenses import test_sentinel as sentinel

from prefect_slots.detect.licenses.report import Counted
from prefect_slots.detect.licenses.vendors import VENDORS

ANSWERS = {
    "dsls": test_dsls.BUSY,
    "flexnet": test_flexnet.BUSY,
    "lmx": test_lmx.BUSY,
    "lsdyna": test_lsdyna.BUSY,
    "olicense": test_olicense.BUSY,
    "rlm": test_rlm.BUSY,
    "sentinel": sentinel.BUSY,
}


def damaged(data: st.DataObject, answer: str) -> str:
    """Cut lines off, lose them, repeat them, run two together, and write nonsense into them."""
    lines = answer.splitlines()
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(lines) - 1))
        column = data.draw(st.integers(0, len(lines[place])))
        damage = data.draw(st.sampled_from(["cut", "lose", "repeat", "join", "write"]))
        if damage == "cut":
            lines[place] = lines[place][:column]
        elif damage == "lose" and len(lines) > 1:
            del lines[place]
        elif damage == "repeat":
            lines.insert(data.draw(st.integers(0, len(lines))), lines[place])
        elif damage == "join":
            lines[place] += lines[data.draw(st.integers(0, len(lines) - 1))]
        else:
            nonsense = data.draw(st.text(ODD + "²\t\r\x00\u2028", max_size=9))
            lines[place] = lines[place][:column] + nonsense + lines[place][column:]
    return "\n".join(lines)


def test_every_vendor_has_an_answer_to_damage() -> None:
    assert ANSWERS.keys() == VENDORS.keys()


@pytest.mark.parametrize("vendor", sorted(ANSWERS))
@effort(45)
@given(data=st.data())
def test_a_damaged_answer_is_read_to_its_end(vendor: str, data: st.DataObject) -> None:
    text = damaged(data, ANSWERS[vendor])
    parse = VENDORS[vendor].parse
    named, bare = parse(text, server="1@a", checkouts=True), parse(text, server="1@a")
    assert bare == replace(named, features=tuple(replace(f, checkouts=None) for f in named.features))
    assert all(feature.checkouts is not None for feature in named.features)
    assert len({feature.name for feature in named.features}) == len(named.features)
    counted = [feature.usage for feature in named.features if isinstance(feature.usage, Counted)]
    assert all(min(usage.total, usage.used, usage.reserved, usage.queued) >= 0 for usage in counted)
    assert (named.failure is not None) <= (named.features == ())
