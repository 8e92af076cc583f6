"""The judge of the records: a planted overlap is found, what only touches is none, the dead hold nothing."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

from tests.chaos.judge import Interval, Records, overlaps
from tests.chaos.witness import ALL_GIVEN_BACK, DIED, ENDS, GIVEN_BACK, HELD, Witness, note_end

CARD = {"m/card": 24}


def held(start: float, end: float, amount: int = 16, who: str = "") -> Interval:
    return Interval("m/card", amount, start, end, who)


def written(folder: Path, name: str, *lines: list[object]) -> None:
    with (folder / name).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_planted_overlap_is_found_and_named():
    (found,) = overlaps([held(1, 3, who="a"), held(2, 4, who="b")], CARD)
    assert found.startswith("m/card: 32 of 24 at 2.000000")
    assert "a 16 since 1.000" in found
    assert "b 16 since 2.000" in found


def test_what_touches_or_fits_does_not_overlap():
    assert overlaps([held(1, 2), held(2, 3)], CARD) == []
    assert overlaps([held(2, 3), held(1, 2)], CARD) == []
    assert overlaps([held(1, 3, 16), held(2, 4, 8)], CARD) == []


def test_each_place_has_its_own_capacity():
    elsewhere = Interval("n/card", 16, 1, 3)
    assert overlaps([held(1, 3), elsewhere], {**CARD, "n/card": 16}) == []
    assert len(overlaps([held(1, 3), elsewhere, elsewhere], {**CARD, "n/card": 16})) == 1


def test_an_interval_without_length_holds_nothing():
    assert overlaps([held(1, 3), held(2, 2), held(2.5, 2)], CARD) == []


def test_only_moments_before_the_limit_are_judged():
    assert overlaps([held(1, inf), held(5, inf)], CARD, until=4) == []
    assert len(overlaps([held(1, inf), held(5, inf)], CARD, until=5)) == 1


def test_what_the_dead_held_ends_with_them(tmp_path: Path):
    written(tmp_path, "killed.jsonl", [HELD, 1.0, 1, [["m/card", 16]], 0.5])
    written(tmp_path, "struck.jsonl", [HELD, 4.0, 1, [["m/card", 16]], 0.1], [DIED, 5.0, "granted"])
    # What a dying process still writes is not believed.
    written(tmp_path, "struck.jsonl", [HELD, 5.5, 2, [["m/card", 24]], 0.0])
    written(tmp_path, "next.jsonl", [HELD, 3.0, 1, [["m/card", 16]], 2.0], [GIVEN_BACK, 4.0, 1])
    written(tmp_path, "last.jsonl", [HELD, 5.0, 1, [["m/card", 16]], 0.0], [ALL_GIVEN_BACK, 6.0])
    records = Records(tmp_path)
    records.read()
    assert records.overlaps(CARD), "nobody knows yet that it was killed"
    written(tmp_path, ENDS, ["killed.jsonl", 2.5])
    records.read()
    assert records.overlaps(CARD) == []
    assert records.grants == 5
    assert records.longest_wait == 2.0
    assert records.counts == {"killed: granted": 1}


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path: Path):
    line = json.dumps([HELD, 1.0, 1, [["m/card", 16]], 0.0]) + "\n"
    (tmp_path / "one.jsonl").write_text(line[:10])
    records = Records(tmp_path)
    records.read()
    assert records.grants == 0
    (tmp_path / "one.jsonl").write_text(line)
    records.read()
    assert records.grants == 1


def test_what_was_dropped_is_judged_no_more_and_what_is_held_still_is(tmp_path: Path):
    written(tmp_path, "a.jsonl", [HELD, 1.0, 1, [["m/card", 16]], 0.0], [GIVEN_BACK, 2.0, 1])
    written(tmp_path, "b.jsonl", [HELD, 1.5, 1, [["m/card", 8]], 0.0])
    records = Records(tmp_path)
    records.read()
    records.drop_before(3.0)
    written(tmp_path, "c.jsonl", [HELD, 4.0, 1, [["m/card", 24]], 0.0])
    records.read()
    (found,) = records.overlaps(CARD)
    assert "32 of 24" in found


def test_the_witness_and_the_killer_write_what_the_judge_reads(tmp_path: Path):
    first, second = Witness(tmp_path / "1.jsonl"), Witness(tmp_path / "2.jsonl")
    with first.holding([("m/card", 16)]):
        pass
    with second.holding([("m/card", 16)], 1.5), first.holding([("m/card", 16)]):
        pass
    records = Records(tmp_path)
    records.read()
    assert records.grants == 3
    assert records.longest_wait == 1.5
    assert len(records.overlaps(CARD)) == 1
    second.write(HELD, 9, [("m/card", 16)], 0.0)
    note_end(tmp_path, "2.jsonl")
    with first.holding([("m/card", 16)]):
        pass
    records.read()
    assert len(records.overlaps(CARD)) == 1
