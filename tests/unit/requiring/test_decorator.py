"""What `requires` is given: amounts asked for at each call, waiting times, priorities; mistakes are told at once."""

from __future__ import annotations

import functools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from tests.support.processes import SharedMachine

from prefect_slots import any_of, current_grant, requires
from prefect_slots.acquire.engine import close_engine
from prefect_slots.errors import Impossible, InvalidRequirement, NotFoundYet, UnknownResource, WaitTimeout


def own_amounts(*_: Any, **__: Any) -> dict[str, int]:
    grant = current_grant()
    return grant.amounts if grant else {}


def of_first(first: int) -> dict[str, int]:
    return own_amounts()


def of_n(n: int) -> dict[str, int]:
    return own_amounts()


@pytest.mark.parametrize("spelling", ["license", "licence"])
def test_a_license_is_asked_for_in_either_spelling(machine: SharedMachine, spelling: str) -> None:
    seats: dict[str, Any] = {spelling: {"ansys": 2}}
    per_call: dict[str, Any] = {spelling: lambda: {"ansys": 2}}
    for asked in (requires(**seats), requires(any_of(seats)), requires(any_of=[seats]), requires(**per_call)):
        with asked as grant:
            assert grant.amounts == {"license.ansys": 2}


def test_both_spellings_of_license_at_once_are_refused(machine: SharedMachine) -> None:
    with pytest.raises(InvalidRequirement, match=r"licence='b'.*two spellings; give one of them"):
        requires(license="a", licence="b")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"gpu_mem": None},
        {"gpu_mem": "8 GB of ram"},
        {"gpu_mem": -1},
        {"cpus": 0.5},
        {"cpus": True},
        {"license": {"matlab": 0}},
        {"license": "a/b"},
        {"licence": "a/b"},
        {"license": "matlab", "licence": "matlab"},
        {"scanner": "one"},
        {"Scanner": 1},
        {"any_of": 1},
        {"gpu_mem": 1, "timeout": -1},
        {"gpu_mem": 1, "timeout": math.nan},
        {"gpu_mem": 1, "timeout": math.inf},
        {"gpu_mem": 1, "timeout": "5"},
        {"gpu_mem": 1, "timeout": True},
        {"gpu_mem": 1, "priority": 0.5},
        {"gpu_mem": 1, "priority": False},
        {"gpu_mem": 1, "expected_seconds": 0},
        {"gpu_mem": 1, "expected_seconds": -1},
        {"gpu_mem": 1, "expected_seconds": math.nan},
        {"gpu_mem": 1, "expected_seconds": math.inf},
        {"gpu_mem": 1, "expected_seconds": "5"},
        {"gpu_mem": 1, "expected_seconds": True},
    ],
    ids=str,
)
def test_a_mistake_is_told_when_it_is_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequirement):
        requires(**wrong)


@pytest.mark.usefixtures("machine")
def test_an_amount_may_be_asked_of_the_call_s_arguments() -> None:
    def needed(size: int, scale: int, attempt: int) -> int:
        return size * scale * attempt

    @requires(mem=needed, scanner=lambda: 1)
    def work(size: int, *, scale: int = 2) -> dict[str, int]:
        return own_amounts()

    assert work(1) == {"mem": 2048, "scanner": 1}
    assert work(size=2, scale=3) == {"mem": 6144, "scanner": 1}


@pytest.mark.usefixtures("machine")
def test_a_method_s_amount_may_ask_its_object() -> None:
    class Model:
        seats = 3

        @requires(license=lambda self: {"ansys": self.seats})
        def run(self) -> dict[str, int]:
            return own_amounts()

    assert Model().run() == {"license.ansys": 3}


@pytest.mark.usefixtures("machine")
def test_what_an_amount_takes_besides_is_left_to_it() -> None:
    def needed(first: int, *others: int, unit: int = 2, **named: int) -> int:
        return first * unit + len(others) + sum(named.values())

    asked = requires(cpus=needed)
    assert asked(of_first)(3) == {"cpus": 6}
    assert requires(cpus=functools.partial(needed, unit=1))(of_first)(3) == {"cpus": 3}
    positional = requires(cpus=lambda first, /: first)
    assert positional(of_first)(2) == {"cpus": 2}


@pytest.mark.usefixtures("machine")
def test_an_amount_of_none_asks_for_nothing() -> None:
    asked = requires(cpus=lambda n: n or None, scanner=lambda n: 1 if n > 1 else None)
    work = asked(of_n)
    assert work(1) == {"cpus": 1}
    assert work(2) == {"cpus": 2, "scanner": 1}
    with pytest.raises(InvalidRequirement, match="nothing is asked for"):
        work(0)


@pytest.mark.usefixtures("machine")
def test_an_argument_that_the_call_has_not_is_named_with_those_it_has() -> None:
    work = requires(cpus=lambda sice: sice)(lambda size: size)
    with pytest.raises(InvalidRequirement, match=r"no argument 'sice'.*attempt, size"):
        work(1)
    with pytest.raises(InvalidRequirement, match="no argument 'size'"), requires(cpus=lambda size: size):
        pass


@pytest.mark.usefixtures("machine")
def test_wrong_arguments_are_the_function_s_own_error() -> None:
    work: Any = requires(cpus=1)(lambda size: size)
    with pytest.raises(TypeError, match="missing 1 required"):
        work()


@pytest.mark.usefixtures("machine")
def test_an_amount_that_turns_out_wrong_is_told_at_the_call(machine: SharedMachine) -> None:
    with pytest.raises(InvalidRequirement, match="cpus"):
        requires(cpus=lambda: "many")(own_amounts)()

    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        requires(cpus=fail)(own_amounts)()
    assert machine.count("held") == 0


def test_what_the_machine_has_not_is_told_with_what_is_close(machine: SharedMachine) -> None:
    with pytest.raises(UnknownResource, match="no resource 'scaner': did you mean scanner"), requires(scaner=1):
        pass
    assert machine.traces().keys() == {"owner"}


def test_what_is_looked_for_and_not_there_is_no_mistake_of_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedMachine(tmp_path, '[gpus]\ndetect = false\n[resources.scratch]\ndisk = "/no/such/folder"\n')
    for name, value in shared.settings.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(NotFoundYet, match=r"no 'scratch' now, although .* `prefect-slots detect --explain`"):
            requires(scratch=1).__enter__()
        with pytest.raises(UnknownResource, match="no resource 'scratsh'"):
            requires(scratsh=1).__enter__()
        assert shared.traces().keys() == {"owner"}
    finally:
        close_engine()


def test_more_than_the_largest_card_is_impossible_and_names_it(machine: SharedMachine) -> None:
    with pytest.raises(Impossible, match=r"2 cards, the largest is gpu 0 \(Test card\) with 24576 MiB"):
        requires(gpu_mem=25).__enter__()
    with pytest.raises(Impossible):
        requires(gpus=3).__enter__()
    assert machine.traces().keys() == {"owner"}


def test_waiting_ends_with_its_time_and_says_why(machine: SharedMachine) -> None:
    with requires(scanner=1), pytest.raises(WaitTimeout, match=r"within 0\.2 s: waits") as caught:
        in_thread(requires(scanner=1, timeout=0.2)(own_amounts))
    assert caught.value.seconds == 0.2
    assert machine.traces().keys() == {"owner"}


def in_thread(function: Any) -> Any:
    """Call outside this thread's grants."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(30)


def test_a_time_of_zero_takes_what_is_free_and_waits_for_nothing(machine: SharedMachine) -> None:
    with requires(scanner=1, timeout=0) as grant:
        assert grant.waited < 5
        with pytest.raises(WaitTimeout):
            in_thread(requires(scanner=1, timeout=0)(own_amounts))
    assert machine.count("held") == 0


def test_higher_priority_is_served_first(machine: SharedMachine) -> None:
    order: list[int] = []

    def work(priority: int) -> None:
        with requires(scanner=1, priority=priority):
            order.append(priority)

    threads = [threading.Thread(target=work, args=(priority,)) for priority in (0, 5, -5)]
    with requires(scanner=1):
        for number, thread in enumerate(threads, 1):
            thread.start()
            machine.waiting(number)
    for thread in threads:
        thread.join(30)
    assert order == [5, 0, -5]


def test_who_says_that_it_is_short_runs_before_what_cannot_start_sooner(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_MAX_OVERTAKES", "0")
    all_seats = threading.Thread(target=requires(license={"ansys": 3})(own_amounts))
    with requires(license={"ansys": 2}, expected_seconds=600):
        all_seats.start()
        machine.waiting(1)
        with pytest.raises(WaitTimeout):
            in_thread(requires(license="ansys", timeout=0)(own_amounts))
        with pytest.raises(WaitTimeout):
            in_thread(requires(license="ansys", timeout=0, expected_seconds=900)(own_amounts))
        amounts = in_thread(requires(license="ansys", timeout=0, expected_seconds=60)(own_amounts))
        assert amounts == {"license.ansys": 1}
    all_seats.join(30)
    assert machine.count("ticket") == 0


# Crossing processes


@requires(cpus=lambda size: size)
def decorated(size: int) -> dict[str, int]:
    return own_amounts()


@pytest.mark.usefixtures("machine")
def test_a_decorated_function_and_a_requirement_can_be_pickled() -> None:
    @requires(license="matlab")
    def local(value: int) -> tuple[int, dict[str, int]]:
        return value, own_amounts()

    assert cloudpickle.loads(cloudpickle.dumps(local))(3) == (3, {"license.matlab": 1})
    assert cloudpickle.loads(cloudpickle.dumps(decorated))(2) == {"cpus": 2}
    asked = requires(scanner=1, timeout=3, priority=2)
    with asked:
        copied = cloudpickle.loads(cloudpickle.dumps(asked))
    assert (copied.amounts, copied.terms.timeout, copied.terms.priority) == ({"scanner": 1}, 3.0, 2)
    with copied:
        assert own_amounts() == {"scanner": 1}


def test_a_requirement_shows_what_it_asks_for() -> None:
    assert repr(requires(gpu_mem=8, license="matlab")) == "requires(gpu_mem=8, license='matlab')"
