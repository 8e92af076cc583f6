"""A Hypothesis state machine that drives keepers of a book through all events.

Subclass `BookMachine`: add keepers to compare with the model, or watch each step to check a law. To test a ledger:

    class LedgerEqualsModel(BookMachine):
        def keepers(self, situation):
            return [*super().keepers(situation), MyAdapter(situation.cells, situation.max_overtakes)]

    TestLedger = LedgerEqualsModel.TestCase
"""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from prefect_slots.model import Requirement
from prefect_slots.testing import bookkeeping, strategies
from prefect_slots.testing.play import Play, Step

# As many as there may be options to choose from; more would make shrinking slower for nothing.
_CHOICE = st.integers(0, 63)
# Two priorities, few runs and few durations: equal ones must meet for fairness to show.
_PRIORITY = st.integers(0, 1)
_RUN = st.sampled_from(["", "a", "b"])
_EXPECTED = st.sampled_from([None, 1.0, 8.0, 60.0])


class BookMachine(RuleBasedStateMachine):
    """Requests, nested requests, draws, ends, time-outs, refusals by the server, changes of cells, in any order.

    The first keeper is the model; every further one must show an equal book after every event.
    """

    play: Play
    situation: strategies.Situation

    def keepers(self, situation: strategies.Situation) -> Sequence[bookkeeping.BookKeeper]:
        """Return the keepers; extend the list with the keeper under test."""
        return [bookkeeping.MemoryLedger(situation.cells, max_overtakes=situation.max_overtakes)]

    def watch(self, step: Step) -> None:
        """Check a step; called after each."""

    @initialize(situation=strategies.situations())
    def start(self, situation: strategies.Situation) -> None:
        """Draw a situation and open the book."""
        self.situation = situation
        self.play = Play(situation.cells, self.keepers(situation), strategies.SCOPES)
        self.play.watchers.append(self.watch)

    @rule(wish=_CHOICE, priority=_PRIORITY, run=_RUN, expected=_EXPECTED)
    def ask(self, wish: int, priority: int, run: str, expected: float | None) -> None:
        """A process asks outside any grant."""
        self.play.ask(self._wish(wish), priority, run, expected)

    @precondition(lambda self: self.play.book.grants)
    @rule(where=_CHOICE, wish=_CHOICE, priority=_PRIORITY, expected=_EXPECTED)
    def ask_inside(self, where: int, wish: int, priority: int, expected: float | None) -> None:
        """A process asks inside a grant, for a requirement that is allowed there."""
        wishes = self.situation.wishes
        # Starts at a drawn wish, so that each of them is asked for first now and then.
        first = wish % len(wishes)
        self.play.ask_inside_any(where, (*wishes[first:], *wishes[:first]), priority, expected)

    @precondition(lambda self: self.play.book.grants)
    @rule(which=_CHOICE)
    def end(self, which: int) -> None:
        """A holder ends, with its nested requests still open."""
        self.play.end(which)

    @precondition(lambda self: self.play.book.lines or self.play.aside)
    @rule(which=_CHOICE)
    def leave(self, which: int) -> None:
        """A waiting process times out, is cancelled, or dies."""
        self.play.leave(which)

    @precondition(lambda self: self.play.book.grants)
    @rule(which=_CHOICE)
    def refuse(self, which: int) -> None:
        """The server refuses a grant of the ledger."""
        self.play.refuse(which)

    @precondition(lambda self: self.play.aside)
    @rule(which=_CHOICE)
    def resume(self, which: int) -> None:
        """A ticket that had stepped aside may try again."""
        self.play.resume(which)

    @rule(which=_CHOICE, foreign=st.integers(0, 3))
    def use(self, which: int, foreign: int) -> None:
        """The foreign use of a cell changes."""
        self.play.use(which, foreign)

    @rule(which=_CHOICE, capacity=st.integers(0, 5))
    def resize(self, which: int, capacity: int) -> None:
        """A cell is registered with another capacity."""
        self.play.resize(which, capacity)

    @rule(seconds=st.sampled_from([5.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes, so that holders may outlast their expected seconds."""
        self.play.pass_time(seconds)

    def _wish(self, which: int) -> Requirement:
        return self.situation.wishes[which % len(self.situation.wishes)]
