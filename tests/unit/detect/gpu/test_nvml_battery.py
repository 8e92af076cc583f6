"""The battery over both doubles: made-up machines through the real binding, and what each comes to."""

from __future__ import annotations

import pytest
from tests.support.nvml_stub.battery import SCENARIOS, Scenario, foreign, judged, laws
from tests.support.nvml_stub.machines import Observe


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_machine_is_seen_as_it_is(observe: Observe, scenario: Scenario):
    observed = observe(scenario.machine)
    laws(observed)
    answer = judged(observed)
    assert observed.cards.state == scenario.state
    assert {cell.key: cell.capacity for resource in answer.resources for cell in resource.cells} == scenario.cells
    assert answer.unknown | answer.unknown_cells == scenario.unknown
    problems = [f"{finding.subject}: {finding.problem}" for finding in answer.findings]
    assert all(any(words in problem for problem in problems) for words in scenario.told), problems
    assert len(problems) == len(scenario.told)
    assert foreign(observed) == scenario.foreign
