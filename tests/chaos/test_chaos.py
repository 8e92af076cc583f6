"""Two minutes of chaos with a seed of chance, which is printed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.chaos.chaos import Chaos

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.xdist_group("server")]


@pytest.mark.timeout(900)
def test_two_minutes_of_chaos(tmp_path: Path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    verdict = Chaos(tmp_path / "chaos", minutes=2, seed=seed).run()
    assert verdict.reasons == [], f"seed {seed}"
    assert verdict.counts or verdict.done
