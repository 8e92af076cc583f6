"""Whoever holds a licence's seats, ours are not counted twice and others' are never counted as ours."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort

from prefect_slots.detect.licenses.outside import Hold, OutsideUse, outside_use
from prefect_slots.detect.licenses.report import Checkout, Counted

GRACE, ASKED = 30.0, 1000.0
USERS = st.sampled_from(["svc", "ann", "ann lee", "Bob"])
HOSTS = st.sampled_from(["gpu-1", "gpu-10", "ws-1"])
DOMAINS = st.sampled_from(["", ".lab.example"])
AGES = st.floats(0, 90)


@dataclass(frozen=True)
class World:
    """Seats of a server as they truly are when it is asked."""

    holds: tuple[Hold, ...]
    shown: tuple[Hold, ...]
    strangers: tuple[Checkout, ...]
    uncounted: int
    reserved: int = 0
    for_others: int = 0

    @property
    def list(self) -> tuple[Checkout, ...]:
        """Everybody's seats, as the server shows them."""
        return (*(Checkout(user=h.user, host=h.host, display=":0", count=h.count) for h in self.shown), *self.strangers)

    @property
    def usage(self) -> Counted:
        reserved = self.reserved + self.for_others
        used = sum(checkout.count for checkout in self.list) + self.uncounted + reserved
        return Counted(total=100, used=used, reserved=reserved)

    def use(self, *, now: float = ASKED, known: bool = True) -> OutsideUse:
        return outside_use(
            self.usage,
            self.list if known else None,
            self.holds,
            reserved=self.reserved,
            asked_at=ASKED,
            now=now,
            grace=GRACE,
        )


@st.composite
def worlds(draw: st.DrawFn, strangers: st.SearchStrategy[str] = USERS) -> World:
    """Draw who holds what. What our tasks were granted within the grace time may not be shown yet."""
    holds = tuple(
        Hold(
            user=draw(USERS),
            host=draw(HOSTS) + draw(DOMAINS),
            count=draw(st.integers(1, 5)),
            since=ASKED - draw(AGES),
        )
        for _ in range(draw(st.integers(0, 5)))
    )
    shown = tuple(hold for hold in holds if hold.since + GRACE <= ASKED or draw(st.booleans()))
    people = st.builds(Checkout, user=strangers, host=HOSTS, count=st.integers(1, 5))
    return World(holds, shown, tuple(draw(st.lists(people, max_size=4))), draw(st.integers(0, 5)))


def seats(holds: tuple[Hold, ...]) -> int:
    return sum(hold.count for hold in holds)


NOBODY_OF_OURS = st.sampled_from(["zoe", "an", "svc2", "lee"])


@effort(250)
@given(world=worlds(NOBODY_OF_OURS))
def test_what_strangers_use_is_told_exactly_whatever_of_ours_is_shown_yet(world: World) -> None:
    strangers = sum(checkout.count for checkout in world.strangers) + world.uncounted
    assert world.use() == OutsideUse(others=strangers, unseen=0)


@effort(250)
@given(world=worlds())
def test_strangers_under_our_own_name_are_taken_for_ours_only_as_far_as_we_hold_more_than_is_shown(
    world: World,
) -> None:
    strangers = sum(checkout.count for checkout in world.strangers) + world.uncounted
    pending = seats(world.holds) - seats(world.shown)
    assert strangers - pending <= world.use().others <= strangers


@effort(250)
@given(world=worlds(NOBODY_OF_OURS), ours=st.integers(0, 9), theirs=st.integers(0, 9))
def test_seats_set_aside_for_us_are_nobody_elses_and_those_for_others_are(world: World, ours: int, theirs: int) -> None:
    aside = replace(world, reserved=ours, for_others=theirs)
    assert aside.use().others == world.use().others + theirs


@effort(250)
@given(world=worlds(NOBODY_OF_OURS), reserved=st.integers(1, 9))
def test_a_reservation_that_is_listed_although_its_seats_were_taken_is_not_set_aside_twice(
    world: World, reserved: int
) -> None:
    shown = sum(checkout.count for checkout in world.list)
    usage = Counted(total=100, used=max(shown, reserved), reserved=reserved)
    use = outside_use(usage, world.list, world.holds, reserved=reserved, asked_at=ASKED, now=ASKED, grace=GRACE)
    strangers = sum(checkout.count for checkout in world.strangers)
    assert use.others >= strangers


@effort(250)
@given(world=worlds(), count=st.integers(1, 9))
def test_one_more_stranger_takes_as_many_seats_as_they_hold(world: World, count: int) -> None:
    more = replace(world, strangers=(*world.strangers, Checkout(user="zoe", host="gpu-1", count=count)))
    assert more.use().others == world.use().others + count


@effort(250)
@given(world=worlds(), ended=st.floats(0.001, 60), later=st.floats(0, 90))
def test_a_seat_given_back_is_free_only_after_the_grace_time(world: World, ended: float, later: float) -> None:
    now = ASKED + ended + later
    gone = replace(world, holds=tuple(replace(hold, ended=ASKED + ended) for hold in world.holds))
    kept = world.use(now=now).others
    if ASKED + ended + GRACE <= now:
        assert gone.use(now=now).others == kept
    else:
        assert gone.use(now=now).others == world.usage.used


@effort(250)
@given(world=worlds(NOBODY_OF_OURS))
def test_without_names_what_is_ours_is_taken_off_once_it_must_be_shown(world: World) -> None:
    settled = seats(tuple(hold for hold in world.holds if hold.since + GRACE <= ASKED))
    assert world.use(known=False).others == world.usage.used - settled
    assert world.use(known=False).others >= world.use().others


@effort(250)
@given(world=worlds(NOBODY_OF_OURS), lost=st.data())
def test_seats_that_should_show_and_do_not_are_told_and_free_nothing(world: World, lost: st.DataObject) -> None:
    hidden = lost.draw(st.sets(st.sampled_from(range(len(world.shown)))) if world.shown else st.just(set[int]()))
    less = replace(world, shown=tuple(hold for place, hold in enumerate(world.shown) if place not in hidden))
    missing = [hold for place, hold in enumerate(world.shown) if place in hidden]
    assert less.use().others == world.use().others
    assert less.use().unseen <= seats(tuple(missing))
    old = [hold for hold in world.holds if hold.since + GRACE <= ASKED]
    if len(old) == len(world.holds):
        assert less.use().unseen == seats(tuple(missing))


def test_what_was_granted_after_the_server_was_asked_explains_nothing_that_it_showed() -> None:
    late = Hold(user="svc", host="gpu-1", count=1, since=ASKED + 1)
    world = World(holds=(late,), shown=(), strangers=(Checkout(user="svc", host="gpu-1"),), uncounted=0)
    assert world.use(now=ASKED + 2) == OutsideUse(others=1, unseen=0)


def test_a_list_that_shows_more_than_is_counted_makes_no_negative_use() -> None:
    hold = Hold(user="svc", host="gpu-1", count=3, since=0)
    usage, shown = Counted(total=5, used=1), (Checkout(user="svc", host="gpu-1", count=3),)
    use = outside_use(usage, shown, (hold,), asked_at=ASKED, now=ASKED, grace=GRACE)
    assert use == OutsideUse(others=0, unseen=0)
