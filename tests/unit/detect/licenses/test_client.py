"""Asking servers: one query at a time, answers kept, patience after failures, all through a real program."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.polling import until

from prefect_slots.detect.licenses.client import Desk, Question, query_server, questions
from prefect_slots.detect.licenses.report import Counted, Reading
from prefect_slots.detect.licenses.vendors import VENDORS
from prefect_slots.model.declaration import LicenseServer
from prefect_slots.system.processes import user_name

if TYPE_CHECKING:
    from tests.support.license_tools import Tool
    from tests.unit.detect.licenses.conftest import MakeTool

ANSWER = "Users of aa:  (Total of 9 licenses issued;  Total of 4 licenses in use)\n"
DEAD = "Error getting status: Cannot connect to license server system. (-15,570:111)\n"
LINE = "    user host :0 (v1) (s/27000 1), start Mon 11/2 8:01\n"


class Clock:
    """A clock that stands until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def question(tool: Tool, *features: str) -> Question:
    return Question(vendor="flexnet", server="27000@lic-a", command=tool.command, features=features or ("aa",))


def ask(tool: Tool, *, timeout: float = 30) -> Reading:
    return query_server(replace(question(tool), timeout=timeout), os.environ)


def used(reading: Reading) -> int:
    usage = reading.features[0].usage
    assert isinstance(usage, Counted)
    return usage.used


def test_one_feature_is_asked_for_by_name_and_several_in_one_query(tool: MakeTool):
    fake = tool(text=ANSWER)
    assert used(ask(fake)) == 4
    query_server(question(fake, "aa", "bb"), os.environ)
    one, two = (begun["arguments"] for begun in fake.noted("begins"))
    assert one == ["lmstat", "-c", "27000@lic-a", "-f", "aa"]
    assert two == ["lmstat", "-c", "27000@lic-a", "-a"]


@pytest.mark.parametrize(
    ("scene", "failure"),
    [
        ({"text": DEAD, "code": 241}, "Cannot connect to license server system. (-15,570:111)"),
        ({"text": DEAD, "code": 0}, "Cannot connect to license server system. (-15,570:111)"),
        ({"text": "<html>\n", "code": 0}, "its output was not understood"),
        ({"text": "", "code": 0}, "it told of no feature"),
        ({"text": "Feature usage info:\n", "code": 160}, "it told of no feature, and '"),
    ],
)
def test_a_server_that_tells_nothing_fails_in_words(tool: MakeTool, scene: dict[str, object], failure: str):
    reading = ask(tool(**scene))
    assert reading.features == ()
    assert failure in (reading.failure or "")


def test_a_group_of_servers_with_a_dead_one_counts_whatever_the_exit_status(tool: MakeTool):
    text = 'lic-a: license server UP (MASTER) v11\nlic-b: Cannot connect to license server system. (-15,1:1 "x")\n'
    reading = ask(tool(text=text + ANSWER, code=241))
    assert (used(reading), reading.failure) == (4, None)
    assert [finding.problem[:6] for finding in reading.findings] == ["lic-b:"]


def test_a_licence_that_ended_long_ago_and_is_still_listed_is_not_counted(tool: MakeTool):
    text = "a v1\n count: 2, # reservations: 0, inuse: 0, exp: permanent\na v0\n count: 9, # reservations: 0, inuse: 0"
    asked = replace(question(tool(text=f"{text}, exp: 1-apr-2023\n")), vendor="rlm")
    assert query_server(asked, os.environ).features[0].usage == Counted(total=2, used=0)


def test_an_output_that_breaks_its_reader_is_a_failure_in_words(tool: MakeTool, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> Reading:
        raise OverflowError

    monkeypatch.setitem(VENDORS, "flexnet", replace(VENDORS["flexnet"], parse=broken))
    assert ask(tool(text=ANSWER)) == Reading(failure="its output cannot be read (OverflowError): please report it")


def test_counts_of_an_output_that_was_cut_are_not_believed(tool: MakeTool):
    reading = ask(tool(do="hang"), timeout=2)
    assert (reading.features, reading.failure) == ((), "did not answer within 2 s")


def test_ten_megabytes_of_holders_and_of_garbage_are_read(tool: MakeTool):
    times = 10**7 // len(LINE) + 1
    many = ask(tool(text=LINE, repeat=times))
    assert (many.features, len(many.findings)) == ((), 1)
    counted = ask(tool(text=ANSWER + LINE * 100, repeat=times // 100))
    assert used(counted) == 4 * (times // 100)
    assert counted.findings == ()


def test_an_answer_is_kept_until_it_is_too_old(tool: MakeTool):
    clock, fake = Clock(), tool(text=ANSWER)
    desk = Desk(clock=clock)
    first = desk.ask(question(fake), os.environ)
    clock.now += 59.9
    assert desk.ask(question(fake), os.environ) is first
    assert len(fake.noted("begins")) == 1
    clock.now += 0.1
    fake.play(text=ANSWER.replace("of 4", "of 5"))
    assert used(desk.ask(question(fake), os.environ)) == 5


def test_a_server_that_fails_is_asked_ever_more_rarely_until_it_answers(tool: MakeTool):
    clock, fake = Clock(), tool(text=DEAD)
    desk = Desk(clock=clock)
    for pause in (60, 120, 240, 480, 900, 900):
        assert "asked again" not in (desk.ask(question(fake), os.environ).failure or "")
        clock.now += pause - 1
        tries = len(fake.noted("begins"))
        assert "; it is asked again in 1 s" in (desk.ask(question(fake), os.environ).failure or "")
        assert len(fake.noted("begins")) == tries
        clock.now += 1
    fake.play(text=ANSWER)
    assert used(desk.ask(question(fake), os.environ)) == 4
    clock.now += 60
    fake.play(text=DEAD)
    assert desk.ask(question(fake), os.environ).failure is not None
    clock.now += 60
    fake.play(text=ANSWER)
    assert used(desk.ask(question(fake), os.environ)) == 4


def test_what_licences_are_locked_to_is_remembered_while_nobody_uses_them(tool: MakeTool):
    clock = Clock()
    block = '"aa" v1, vendor: d\n  {}\n    user host (v1) (s/27000 1), start Mon 11/2 8:01\n'
    fake = tool(text=ANSWER + block.format("nodelocked license, locked to ID=7"))
    desk = Desk(clock=clock)
    seen = [desk.ask(question(fake), os.environ).features[0].locks]
    for text in (ANSWER, DEAD, ANSWER, ANSWER + block.format("floating license"), ANSWER):
        clock.now += 60
        fake.play(text=text)
        seen += [feature.locks for feature in desk.ask(question(fake), os.environ).features]
    assert seen == [("ID=7",), ("ID=7",), ("ID=7",), (), ()]


def test_locks_that_another_process_was_told_are_known_while_nobody_uses_the_licence(tool: MakeTool, tmp_path: Path):
    me = user_name(os.getuid())
    locks = "ID=7", f"USER={me}", "USER=zaphod"
    lines = "\n".join(f"  nodelocked license, locked to {lock}" for lock in locks)
    fake = tool(text=f"{ANSWER}{lines}\n    user host (v1) (s/27000 1), start Mon 11/2 8:01\n")
    assert Desk(folder=tmp_path / "a" / "b").ask(question(fake), os.environ).features[0].locks is not None
    fake.play(text=ANSWER)
    (later,) = Desk(folder=tmp_path / "a" / "b").ask(question(fake), os.environ).features
    assert later.locks == ("ID=7", f"USER={me}", "USER=")
    assert not any(b"zaphod" in file.read_bytes() for file in (tmp_path / "a" / "b").iterdir())
    fake.play(text=f"{ANSWER}  floating license\n")
    assert Desk(folder=tmp_path / "a" / "b").ask(question(fake), os.environ).features[0].locks == ()
    (memory,) = (tmp_path / "a" / "b").glob("*.locks")
    for broken in ("[1]", "{", '{"aa": 7}', "\x00"):
        memory.write_text(broken)
        assert used(Desk(folder=tmp_path / "a" / "b").ask(question(fake), os.environ)) == 4


def test_names_in_another_encoding_are_told_apart(tool: MakeTool):
    fake = tool(text="")
    data = b"Users of aa:  (Total of 2 licenses issued;  Total of 2 licenses in use)\n"
    rows = (
        b"    J\xc3\xbcrgen h (v1) (s/1 1), start Mon 1/5 9:00\n",
        b"    J\xf6rg h (v1) (s/1 2), start Mon 1/5 9:00\n",
    )
    (fake.log.parent / "out").write_bytes(b"\xef\xbb\xbf" + data + b"".join(rows))
    asked = replace(question(fake), command=("sh", "-c", f"cat {fake.log.parent / 'out'}"), checkouts=True)
    (feature,) = query_server(asked, os.environ).features
    assert [each.user for each in feature.checkouts or ()] == ["Jürgen", "Jörg"]


def test_a_server_gets_one_query_at_a_time_and_others_do_not_wait_for_it(tool: MakeTool):
    desk, fake, other = Desk(), tool(do="wait", text=ANSWER), tool(text=ANSWER)
    second = replace(question(fake), features=("bb",))
    asking = [threading.Thread(target=desk.ask, args=(q, os.environ)) for q in (question(fake), second)]
    for thread in asking:
        thread.start()
    until(lambda: len(fake.noted("begins")) == 1, what="the first query")
    elsewhere = replace(question(other), server="27000@lic-b")
    assert used(desk.ask(elsewhere, os.environ)) == 4
    assert (len(fake.noted("begins")), len(fake.noted("ends"))) == (1, 0)
    fake.gate.touch()
    for thread in asking:
        thread.join(30)
    events = [line["event"] for line in fake.noted("begins") + fake.noted("ends")]
    assert sorted(events) == ["begins", "begins", "ends", "ends"]
    order = [line.split('"')[3] for line in fake.log.read_text().splitlines()]
    assert order == ["begins", "ends", "begins", "ends"]


def test_who_asks_the_same_at_the_same_time_gets_the_same_answer(tool: MakeTool):
    desk, fake = Desk(), tool(do="wait", text=ANSWER)
    readings: list[Reading] = []
    asking = [threading.Thread(target=lambda: readings.append(desk.ask(question(fake), os.environ))) for _ in range(3)]
    for thread in asking:
        thread.start()
    until(lambda: len(fake.noted("begins")) == 1, what="the query")
    fake.gate.touch()
    for thread in asking:
        thread.join(30)
    assert len(fake.noted("begins")) == 1
    assert [used(reading) for reading in readings] == [4, 4, 4]


def test_servers_are_asked_at_the_same_time(tool: MakeTool):
    fakes = [tool(do="wait", text=ANSWER) for _ in range(3)]
    asked = [replace(question(fake), server=f"1@{n}") for n, fake in enumerate(fakes)]
    readings: list[Reading] = []
    thread = threading.Thread(target=lambda: readings.extend(Desk().ask_all(asked, os.environ)))
    thread.start()
    until(lambda: all(fake.noted("begins") for fake in fakes), what="all queries")
    for fake in fakes:
        fake.gate.touch()
    thread.join(30)
    assert [used(reading) for reading in readings] == [4, 4, 4]
    assert Desk().ask_all((), os.environ) == ()


def test_tables_of_one_server_are_one_question_as_urgent_and_as_patient_as_any_of_them():
    def table(server: str, *features: tuple[str, str], poll: float = 60, timeout: float = 10) -> LicenseServer:
        return LicenseServer(vendor="flexnet", server=server, features=features, poll_seconds=poll, timeout=timeout)

    first, second = table("1@A", ("x", "xx"), poll=30), table("1@a", ("y", "yy"), ("x2", "xx"), timeout=20)
    third = table("1@b", ("z", "zz"))
    assert questions((first, third, second)) == {
        Question(
            vendor="flexnet", server="1@A", features=("xx", "yy"), poll_seconds=30, timeout=20, checkouts=True
        ): (first, second),
        Question(vendor="flexnet", server="1@b", features=("zz",), checkouts=True): (third,),
    }  # fmt: skip


def test_a_program_that_is_not_there_leaves_everything_unknown(tmp_path: Path):
    asked = Question(vendor="flexnet", server="1@a", features=("aa",))
    reading = query_server(asked, {"PATH": str(tmp_path)})
    assert reading.failure == "there is no program 'lmutil': install it, or name its path with command"
    assert reading.find("aa") is None
