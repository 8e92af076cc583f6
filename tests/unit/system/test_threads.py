"""Looks that hang: left behind in time, beside all others, not sent twice, and in no exit's way."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.support.polling import until

from prefect_slots.system.threads import Hanging, Look, Lookout, call_in_thread

FOREVER = """
import threading
from prefect_slots.system.threads import Look, Lookout
print(Lookout().send({"a": Look(threading.Event().wait, 0.1), "b": Look(lambda: 7, 60)}))
"""


class Door:
    """A look that hangs until it is opened, and counts who came."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.came = 0

    def __call__(self) -> str:
        self.came += 1
        self.open.wait(60)
        return "seen"


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.open.set()


def test_an_answer_and_an_error_come_through():
    assert call_in_thread(lambda: 7, "seven").result(10) == 7
    with pytest.raises(ZeroDivisionError):
        Lookout().send({"a": Look(lambda: 1 // 0, 60)})


def test_what_hangs_is_left_behind_and_the_others_are_kept(door: Door):
    seen = Lookout().send({"a": Look(lambda: 1, 60), "b": Look(door, 0.1), "c": Look(lambda: 3, 60)})
    assert seen == {"a": 1, "b": Hanging("did not answer within 0.1 s"), "c": 3}


def test_while_one_hangs_no_second_is_sent_after_it_and_then_it_is_asked_anew(door: Door):
    lookout = Lookout()
    lookout.send({"a": Look(door, 0.1)})
    again = lookout.send({"a": Look(door, 0.1), "b": Look(lambda: 3, 60)})
    assert (again["a"], again["b"]) == (Hanging("has not answered for 0 s"), 3)
    assert door.came == 1
    door.open.set()
    until(lambda: lookout.send({"a": Look(door, 60)}) == {"a": "seen"}, what="an answer")
    assert door.came == 2


def test_one_that_is_only_slow_for_somebody_else_is_sent_again(door: Door):
    lookout = Lookout()
    other = call_in_thread(lambda: lookout.send({"a": Look(door, 60)}), "another survey")
    until(lambda: door.came == 1, what="the first look")
    assert lookout.send({"a": Look(lambda: "mine", 60)}) == {"a": "mine"}
    door.open.set()
    assert other.result(10) == {"a": "seen"}


def test_a_process_ends_though_a_look_of_it_hangs():
    child = subprocess.run([sys.executable, "-c", FOREVER], capture_output=True, text=True, timeout=60, check=True)
    assert child.stdout == "{'a': Hanging(words='did not answer within 0.1 s'), 'b': 7}\n"
