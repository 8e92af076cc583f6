"""`any_of(...)`: one ticket, the first alternative that is to be had, and which one that was."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.processes import Puppet, SharedMachine

from prefect_slots import any_of, current_grant, requires
from prefect_slots.errors import Impossible, InvalidRequirement, UnknownResource, WaitTimeout

SEATS_OR_SCANNER = any_of({"license": {"matlab": 2}}, {"scanner": 1})


def test_the_first_that_fits_is_granted_and_named(machine: SharedMachine) -> None:
    with requires(SEATS_OR_SCANNER) as preferred:
        assert preferred.chosen == {"license": {"matlab": 2}}
        assert preferred.amounts == {"license.matlab": 2}
    with Puppet(machine) as other:
        other.enter(license="matlab")
        with requires(any_of=[{"license": {"matlab": 2}}, {"scanner": 1}]) as second:
            assert second.chosen == {"scanner": 1}
            assert second.amounts == {"scanner": 1}
            assert machine.all("SELECT resource, amount FROM holding WHERE held=?", second.id) == [("scanner", 1)]


def test_what_waits_is_one_ticket_and_takes_what_comes_free_first(machine: SharedMachine) -> None:
    with Puppet(machine) as seats, Puppet(machine) as scanner, Puppet(machine) as waiting:
        seats.enter(license={"matlab": 2})
        scanner.enter(scanner=1)
        waiting.ask(any_of=[{"license": {"matlab": 1}}, {"scanner": 1}])
        machine.waiting(1)
        scanner.leave()
        waiting.reply()
        holders = machine.all("SELECT resource FROM holding ORDER BY resource")
        assert holders == [("license.matlab",), ("scanner",)]
        waiting.leave()
        seats.leave()


def test_a_decorated_call_is_told_and_callables_are_asked(machine: SharedMachine) -> None:
    @requires(any_of({"gpu_mem": lambda size: size}, {"cpus": 1}), scanner=1)
    def work(size: int) -> Any:
        grant = current_grant()
        assert grant is not None
        return grant.chosen, grant.amounts

    assert work(8) == ({"gpu_mem": 8, "scanner": 1}, {"gpu_mem": 8192, "scanner": 1})
    chosen, amounts = work(48)
    assert chosen == {"cpus": 1, "scanner": 1}
    assert amounts == {"cpus": 1, "scanner": 1}


def test_it_is_impossible_only_if_every_alternative_is(machine: SharedMachine) -> None:
    with requires(any_of({"gpu_mem": 48}, {"microscope": 1}, {"cpus": 1})) as grant:
        assert grant.chosen == {"cpus": 1}
    with pytest.raises(Impossible, match=r"48GiB of gpu_mem on one card or 2 of scanner"):
        requires(any_of({"gpu_mem": 48}, {"scanner": 2})).__enter__()
    with pytest.raises(UnknownResource, match="microscope"):
        requires(any_of({"microscope": 1}, {"telescope": 1})).__enter__()
    assert machine.count("held") == 0


def test_a_request_inside_a_grant_draws_what_that_covers(machine: SharedMachine) -> None:
    with requires(scanner=1), requires(SEATS_OR_SCANNER) as inner:
        assert inner.chosen == {"scanner": 1}
        assert machine.all("SELECT COUNT(*) FROM held WHERE source IS NOT NULL") == [(1,)]


def test_who_waits_too_long_is_told_what_it_waited_for(machine: SharedMachine) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1, license={"matlab": 1})
        with pytest.raises(WaitTimeout, match=r"2 seats of license.matlab; 1 free; waits for 1 of scanner"):
            requires(SEATS_OR_SCANNER, timeout=0.1).__enter__()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (any_of, "at least one alternative"),
        (lambda: any_of(8), "a mapping of amounts"),  # pyright: ignore[reportArgumentType]
        (lambda: requires({"gpu_mem": 8}), "alternatives, such as"),  # pyright: ignore[reportArgumentType]
        (lambda: requires(any_of({"gpu_mem": 8}), any_of=[{"cpus": 1}]), "given twice"),
        (lambda: requires(any_of({"gpu_mem": 8}, {"cpus": 1}), cpus=2), "'cpus' is asked for in all"),
        (lambda: requires(any_of({"license": "a"}, {"cpus": 1}), licence="b"), "'license' is asked for in all"),
        (lambda: any_of({"license": "a", "licence": "a"}), "two spellings; give one"),
        (lambda: requires(any_of({"gpu_mem": 8}, {})), "nothing is asked for"),
        (lambda: requires(any_of({"gpu_mem": "much"}, {"cpus": 1})), "much"),
    ],
)
def test_what_is_no_alternative_is_refused_at_once(given: Any, reason: str) -> None:
    with pytest.raises(InvalidRequirement, match=reason):
        given()
