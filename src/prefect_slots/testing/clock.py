"""Time that passes only when told to."""

from __future__ import annotations


class VirtualClock:
    """A clock for tests: `now()` where the code under test takes a time, `advance()` where it would wait."""

    def __init__(self, start: float = 0.0) -> None:
        """Start at `start` seconds."""
        self._now = start

    def now(self) -> float:
        """Return the present time in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass and return the new time.

        Raises:
            ValueError: if time would run backwards.
        """
        if seconds < 0:
            raise ValueError(f"time does not run backwards, not by {seconds} s either")
        self._now += seconds
        return self._now
