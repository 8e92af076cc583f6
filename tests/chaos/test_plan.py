"""The plan of what is broken: the same seed decides the same, and within what is promised."""

from __future__ import annotations

from itertools import islice

from tests.chaos.plan import Act, fates, on_counts, on_processes, on_the_server


def test_a_seed_decides_the_same_again_and_another_seed_otherwise():
    for plan in (lambda seed: on_processes(seed, 2), on_the_server, lambda seed: on_counts(seed, 2)):
        first, again, other = (list(islice(plan(seed), 200)) for seed in (1, 1, 2))
        assert first == again
        assert first != other
    assert list(islice(fates(1, 0, 0), 50)) == list(islice(fates(1, 0, 0), 50))
    assert list(islice(fates(1, 0, 0), 50)) != list(islice(fates(1, 0, 1), 50))


def test_nobody_is_stopped_for_longer_than_twenty_seconds():
    stops = [d.lasting for d in islice(on_processes(3, 2), 5000) if d.act is Act.STOP]
    assert max(stops) <= 20
    assert {d.act for d in islice(on_processes(3, 2), 5000)} == {Act.KILL, Act.TERM, Act.INT, Act.STOP}
