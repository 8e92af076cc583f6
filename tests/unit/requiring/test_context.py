"""Requests inside a grant: drawn from it, asked for in order, or refused with both places named."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest
from tests.support.processes import ROOT, Puppet, SharedMachine

from prefect_slots import current_grant, requires
from prefect_slots.errors import GrantClosed, OutOfOrder
from prefect_slots.requiring import context

HERE = Path(__file__).name


def test_what_the_outer_grant_covers_is_drawn_from_it(machine: SharedMachine) -> None:
    with requires(gpu_mem=16, license={"matlab": 2}) as outer:
        with requires(gpu_mem=8) as inner:
            assert inner.parent is outer
            assert inner.devices[0].uuid == outer.devices[0].uuid
            held = machine.all("SELECT source FROM held WHERE id=?", inner.id)
            assert held == [(outer.id,)]
        with requires(gpu_mem=8, license={"matlab": 1}), requires(gpu_mem=8):
            assert machine.count("held") == 3
    assert machine.count("held") == 0


def test_a_later_resource_may_be_asked_for_and_waited_for(machine: SharedMachine) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        with requires(gpu_mem=8), ThreadPoolExecutor(1) as pool:

            def inner() -> dict[str, int]:
                with requires(scanner=1) as grant:
                    return grant.amounts

            waiting = pool.submit(copy_context().run, inner)
            machine.waiting(1)
            other.leave()
            assert waiting.result(30) == {"scanner": 1}
    machine.until_empty(but=("owner",))


def test_an_earlier_resource_is_refused_at_once_and_both_places_are_named(machine: SharedMachine) -> None:
    @requires(cpus=1)
    def inner() -> None:
        raise AssertionError("it must not run")

    with requires(scanner=1), pytest.raises(OutOfOrder) as caught:
        inner()
    assert inner.__code__.co_firstlineno > 0
    assert caught.value.wanted_at.startswith("test_an_earlier_resource")
    assert f"inner ({HERE}:" in caught.value.wanted_at
    assert f"with block ({HERE}:" in caught.value.held_at
    assert (caught.value.held, caught.value.wanted) == ("scanner", "1 of cpus")
    assert machine.traces().keys() == {"owner"}


def test_more_of_what_is_held_is_refused_at_once(machine: SharedMachine) -> None:
    with requires(gpu_mem=8), pytest.raises(OutOfOrder), requires(gpu_mem=16):
        pass
    assert machine.traces().keys() == {"owner"}


@pytest.mark.usefixtures("machine")
def test_an_ended_grant_takes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    with requires(gpu_mem=16) as outer:
        context = copy_context()
    # Code that still runs in the ended grant's context, a thread it left behind, stands outside any grant.
    assert context.run(current_grant) is None
    monkeypatch.setenv("PREFECT_SLOTS_GRANT", outer.token)
    with pytest.raises(GrantClosed, match=outer.id), requires(gpu_mem=1):
        pass


@pytest.fixture(autouse=True)
def no_grant_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_GRANT", "")


def test_a_waiting_draw_is_refused_when_its_grant_ends(machine: SharedMachine) -> None:
    entered, end = threading.Event(), threading.Event()

    def draw_all() -> None:
        with requires(scanner=1):
            entered.set()
            end.wait(30)

    def draw_more() -> None:
        with requires(scanner=1):
            raise AssertionError("it must not be granted")

    with ThreadPoolExecutor(2) as pool:
        with requires(scanner=1) as outer:
            first = pool.submit(copy_context().run, draw_all)
            assert entered.wait(30)
            second = pool.submit(copy_context().run, draw_more)
            machine.waiting(1)
        with pytest.raises(GrantClosed, match=outer.id):
            second.result(30)
        assert machine.count("held") == 2, "the scanner stays taken while somebody draws on it"
        end.set()
        first.result(30)
    machine.until_empty(but=("owner",))


def test_siblings_wait_for_each_other_where_that_is_safe(machine: SharedMachine) -> None:
    order: list[str] = []
    entered = threading.Event()

    def draw(name: str) -> None:
        with requires(license="matlab"):
            order.append(name)
            entered.set()
            if name == "first":
                machine.waiting(1)

    with requires(license="matlab"), ThreadPoolExecutor(2) as pool:
        first = pool.submit(copy_context().run, draw, "first")
        assert entered.wait(30)
        second = pool.submit(copy_context().run, draw, "second")
        first.result(30)
        second.result(30)
    assert order == ["first", "second"]


def test_a_draw_that_might_close_a_circle_is_refused_instead_of_waiting(machine: SharedMachine) -> None:
    entered, end = threading.Event(), threading.Event()

    def draw_the_card() -> None:
        with requires(gpu_mem=8):
            entered.set()
            end.wait(30)

    with requires(gpu_mem=8, scanner=1), ThreadPoolExecutor(1) as pool:
        sibling = pool.submit(copy_context().run, draw_the_card)
        assert entered.wait(30)
        # The sibling could ask for the scanner next, so whoever holds the scanner may not wait for the card.
        with requires(scanner=1), pytest.raises(OutOfOrder), requires(gpu_mem=8):
            pass
        assert machine.count("ticket") == 0
        end.set()
        sibling.result(30)
        with requires(scanner=1), requires(gpu_mem=8) as at_once:
            assert at_once.amounts == {"gpu_mem": 8192}


def test_a_thread_without_the_context_stands_outside(machine: SharedMachine) -> None:
    with requires(scanner=1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(current_grant).result(30) is None


# Child processes

CHILD = """
from prefect_slots import requires, current_grant
from prefect_slots.errors import SlotsError
assert current_grant() is None
for needs in {"gpu_mem": 8}, {"gpu_mem": 20}, {"scanner": 1}:
    try:
        with requires(**needs, timeout=5) as grant:
            print(grant.amounts, [d.uuid for d in grant.devices], grant.device)
    except SlotsError as error:
        print(type(error).__name__)
"""


def test_a_child_started_with_the_grant_s_environment_draws_on_it(machine: SharedMachine) -> None:
    with Puppet(machine) as other, requires(gpu_mem=16) as outer:
        other.enter(gpu_mem=24)
        done = subprocess.run(
            [sys.executable, "-c", CHILD], cwd=ROOT, env=outer.env, capture_output=True, text=True, check=True
        )
        card = outer.devices[0].uuid
        assert done.stdout.splitlines() == [
            f"{{'gpu_mem': 8192}} ['{card}'] cuda:0",
            "OutOfOrder",
            "{'scanner': 1} [] cpu",
        ]


def test_a_token_of_another_ledger_or_of_nobody_is_no_grant(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("another:ticket", "nonsense", ":", ""):
        monkeypatch.setenv("PREFECT_SLOTS_GRANT", token)
        with requires(scanner=1) as grant:
            assert machine.all("SELECT parent FROM held WHERE id=?", grant.id) == [(None,)]


def test_the_environment_of_a_grant_names_it() -> None:
    assert context.enclosing() is None
    assert "PREFECT_SLOTS_GRANT" not in {name for name, value in os.environ.items() if value}
