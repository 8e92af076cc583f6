"""Which limits a registration creates, changes, leaves or refuses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.limits.naming import mirror_of, split_mirror
from prefect_slots.limits.outcome import ExistingLimit
from prefect_slots.limits.plan import Action, RegistrationPlan, given_numbers, numbers_of, plan
from prefect_slots.model.registered import LimitSpec
from prefect_slots.model.resource import Scope


def spec(name: str, limit: int, scope: Scope = Scope.WORKER) -> LimitSpec:
    return LimitSpec(name=name, limit=limit, scope=scope)


def there(limit: int, *, held: int = 0, active: bool = True, decay: float = 0.0) -> ExistingLimit:
    return ExistingLimit(limit=limit, active=active, active_slots=held, decay=decay)


def actions(made: RegistrationPlan) -> dict[str, str]:
    return {entry.name: str(entry.action) for entry in made.limits}


def mirror_actions(made: RegistrationPlan) -> dict[str, str]:
    return {entry.name: str(entry.action) for entry in made.mirrors}


def test_a_new_machine_creates_limits_and_mirrors() -> None:
    made = plan([spec("mem:m", 64)], {}, {}, ledger_id="L")
    assert actions(made) == {"mem:m": "create"}
    assert mirror_actions(made) == {"tag:mem:m@L": "create"}
    assert not made.conflicts


def test_registering_again_changes_nothing() -> None:
    existing = {"mem:m": there(64, held=3), "tag:mem:m@L": there(64, held=3)}
    made = plan([spec("mem:m", 64)], existing, {"mem:m": {64}}, ledger_id="L")
    assert made.steps() == ()
    assert made.limits[0].held == 3


def test_a_machine_that_grew_changes_its_own_limit() -> None:
    existing = {"mem:m": there(64), "tag:mem:m@L": there(64)}
    made = plan([spec("mem:m", 128)], existing, {"mem:m": {64}}, ledger_id="L")
    assert [(step.name, step.old, step.new) for step in made.steps()] == [
        ("tag:mem:m@L", 64, 128),
        ("mem:m", 64, 128),
    ]


def test_a_machine_that_shrank_lowers_the_limit_before_its_mirror() -> None:
    existing = {"mem:m": there(64), "tag:mem:m@L": there(64)}
    made = plan([spec("mem:m", 32)], existing, {"mem:m": {64}}, ledger_id="L")
    assert [step.name for step in made.steps()] == ["mem:m", "tag:mem:m@L"]


def test_a_person_may_lower_a_machine_s_own_limit_and_not_raise_it_beyond_the_machine() -> None:
    """C19."""
    for theirs, action, steps in ((7, "lowered", 0), (0, "lowered", 0), (65, "change", 1)):
        existing = {"mem:m": there(theirs), "tag:mem:m@L": there(64)}
        made = plan([spec("mem:m", 64)], existing, {"mem:m": {64}}, ledger_id="L")
        assert actions(made) == {"mem:m": action}
        assert not made.conflicts
        assert len(made.steps()) == steps
        assert str(theirs) in made.limits[0].problem


def test_what_a_person_lowered_is_set_back_by_adoption() -> None:
    existing = {"mem:m": there(0), "tag:mem:m@L": there(64)}
    made = plan([spec("mem:m", 64)], existing, {"mem:m": {64}}, ledger_id="L", adopt=True)
    assert [(step.name, step.new) for step in made.steps()] == [("mem:m", 64)]


def test_a_registration_that_was_broken_off_is_not_taken_for_a_person_s_change() -> None:
    numbers = given_numbers({"mem:m": 64}, {"mem:m": 96}, {"mem:m": 128})
    for reached in (64, 96, 128):
        existing = {"mem:m": there(reached), "tag:mem:m@L": there(128)}
        made = plan([spec("mem:m", 100)], existing, numbers, ledger_id="L")
        assert actions(made) == {"mem:m": "change"}
        assert not made.limits[0].problem


def test_a_limit_that_a_person_switched_off_stays_so() -> None:
    """C19."""
    existing = {"mem:m": there(64, active=False), "tag:mem:m@L": there(64)}
    made = plan([spec("mem:m", 64)], existing, {"mem:m": {64}}, ledger_id="L")
    assert actions(made) == {"mem:m": "switched off"}
    assert not made.conflicts
    assert "prefect gcl enable" in made.limits[0].problem


def test_a_limit_that_a_person_deleted_is_made_again_and_that_is_said() -> None:
    """C18."""
    made = plan([spec("mem:m", 64)], {"tag:mem:m@L": there(64)}, {"mem:m": {64}}, ledger_id="L")
    assert actions(made) == {"mem:m": "create"}
    assert "deleted" in made.limits[0].problem


def test_somebody_else_s_limit_of_another_number_is_a_conflict_unless_adopted() -> None:
    existing = {"mem:m": there(7, held=2)}
    refused = plan([spec("mem:m", 64)], existing, {}, ledger_id="L")
    (conflict,) = refused.conflicts
    assert (conflict.name, conflict.old, conflict.new) == ("mem:m", 7, 64)
    assert "--adopt" in conflict.problem
    assert actions(plan([spec("mem:m", 64)], existing, {}, ledger_id="L", adopt=True)) == {"mem:m": "change"}


def test_somebody_else_s_limit_of_the_same_number_is_used() -> None:
    made = plan([spec("gpu-mem:gpu-1", 2)], {"gpu-mem:gpu-1": there(2)}, {}, ledger_id="L")
    assert actions(made) == {"gpu-mem:gpu-1": "unchanged"}
    assert mirror_actions(made) == {"tag:gpu-mem:gpu-1@L": "create"}


def test_a_limit_that_is_switched_off_or_decays_is_a_conflict_even_when_adopted() -> None:
    for broken in (there(64, active=False), there(64, decay=0.5)):
        for name in ("mem:m", "tag:mem:m@L"):
            made = plan([spec("mem:m", 64)], {name: broken}, {"mem:m": {64}}, ledger_id="L", adopt=True)
            (conflict,) = made.conflicts
            assert conflict.name == name
            assert "prefect gcl" in conflict.problem


FLEET = spec("license:matlab", 3, Scope.FLEET)


def test_a_fleet_s_number_is_changed_by_a_machine_that_saw_it_as_it_is() -> None:
    made = plan([FLEET], {"license:matlab": there(2)}, {"license:matlab": {2}}, ledger_id="L")
    assert actions(made) == {"license:matlab": "change"}


def test_a_machine_with_an_outdated_number_does_not_undo_another_s_change() -> None:
    outdated = spec("license:matlab", 2, Scope.FLEET)
    for theirs, action in ((3, "unchanged"), (1, "lowered")):
        made = plan([outdated], {"license:matlab": there(theirs)}, {"license:matlab": {2}}, ledger_id="L")
        assert actions(made) == {"license:matlab": action}
        assert "--adopt" in made.limits[0].problem


def test_a_fleet_s_number_is_its_owner_s_to_change() -> None:
    existing, given = {"license:matlab": there(2)}, {"license:matlab": {2}}
    for owner, action in (("L", "change"), ("other", "lowered")):
        made = plan([FLEET], existing, given, ledger_id="L", owners={"license:matlab": owner})
        assert actions(made) == {"license:matlab": action}


def test_what_the_machine_no_longer_has_is_orphaned_with_its_mirror() -> None:
    existing = {"gpu-mem:m:1": there(8, held=4), "tag:gpu-mem:m:1@L": there(8, held=4)}
    made = plan([], existing, {"gpu-mem:m:1": {8}}, ledger_id="L")
    assert [(entry.action, entry.held) for entry in (*made.limits, *made.mirrors)] == [(Action.ORPHANED, 4)] * 2
    assert made.steps() == ()


def test_a_fleet_s_limit_that_others_still_use_is_no_orphan() -> None:
    existing = {"license:x": there(2), "tag:license:x@L": there(2), "tag:license:x@other": there(2)}
    made = plan([], existing, {"license:x": {2}}, ledger_id="L")
    assert actions(made) == {}
    assert mirror_actions(made) == {"tag:license:x@L": "orphaned"}


def test_mirrors_of_a_former_ledger_are_orphaned() -> None:
    existing = {"mem:m": there(64), "tag:mem:m@old": there(64, held=1), "tag:mem:m@L": there(64)}
    made = plan([spec("mem:m", 64)], existing, {"mem:m": {64}}, ledger_id="L", former=["old"])
    assert mirror_actions(made) == {"tag:mem:m@old": "orphaned", "tag:mem:m@L": "unchanged"}


def test_other_people_s_limits_are_left_out_of_sight() -> None:
    existing = {"database": there(5), "gpu-mem:other": there(2), "tag:gpu-mem:other@O": there(2)}
    made = plan([spec("mem:m", 64)], existing, {}, ledger_id="L")
    assert actions(made) == {"mem:m": "create"}


def test_numbers_are_read_off_mirrors() -> None:
    existing = {"mem:m": there(9), "tag:mem:m@L": there(64), "tag:cpus:m@other": there(3)}
    assert numbers_of(existing, {"L"}) == {"mem:m": 64}


names = st.sampled_from(["mem:m", "cpus:m", "license:x", "scanner:m"])
numbers = st.integers(1, 4)
worlds = st.dictionaries(
    names | names.map(lambda name: mirror_of(name, "L")) | names.map(lambda name: mirror_of(name, "other")),
    st.builds(there, numbers, held=st.integers(0, 4)),
)


@given(
    st.dictionaries(names, numbers), worlds, st.dictionaries(names, st.frozensets(numbers, max_size=2)), st.booleans()
)
def test_once_carried_out_nothing_is_left_to_do(
    wanted: dict[str, int], existing: dict[str, ExistingLimit], ours: dict[str, frozenset[int]], adopt: bool
) -> None:
    specs = [spec(name, n, Scope.FLEET if name == "license:x" else Scope.WORKER) for name, n in wanted.items()]
    made = plan(specs, existing, ours, ledger_id="L", adopt=adopt)
    if made.conflicts:
        assert not adopt
        return
    after = dict(existing)
    for step in made.steps():
        assert step.new is not None
        held = after[step.name].active_slots if step.name in after else 0
        after[step.name] = there(step.new, held=held)
        parts = split_mirror(step.name)
        name = parts[0] if parts else step.name
        if name in after:
            assert after[mirror_of(name, "L")].limit >= min(after[name].limit, wanted[name])
    numbers = ours | {name: frozenset({number}) for name, number in wanted.items()}
    assert plan(specs, after, numbers, ledger_id="L", adopt=adopt).steps() == ()
    left = (Action.LOWERED, Action.UNCHANGED)
    capped = {entry.name: entry.old for entry in made.limits if entry.action in left}
    assert {name: after[name].limit for name in wanted} == wanted | capped
    assert all(after[name].active_slots == limit.active_slots for name, limit in existing.items())
