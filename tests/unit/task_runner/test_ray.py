"""What a flow written for prefect-ray asks for under its names."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import task

from prefect_slots import SlotTaskRunner, requires
from prefect_slots.errors import InvalidRequirement
from prefect_slots.task_runner.needs import needs_of
from prefect_slots.task_runner.ray import RayTaskRunner, remote_options


@task
def work() -> None: ...


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"num_gpus": 2}, requires(gpus=2)),
        ({"num_gpus": 0.25}, requires(gpus=0.25)),
        ({"num_gpus": 1, "num_cpus": 0.5}, requires(gpus=1, cpus=1)),
        ({"memory": 3 * 2**30 + 1}, requires(mem="3073MiB")),
        ({"resources": {"scanner": 1}, "num_gpus": 0}, requires(scanner=1)),
    ],
)
def test_rays_options_mean_ours(given: dict[str, Any], meant: requires):
    with remote_options(**given):
        asked = needs_of(work).asked
    assert asked is not None
    assert asked.request("", {}).requirement == meant.request("", {}).requirement


def test_nothing_asked_for_is_nothing():
    with remote_options(num_gpus=0, num_cpus=0):
        assert needs_of(work).asked is None


def test_what_has_no_equivalent_is_refused():
    with pytest.raises(InvalidRequirement, match="max_calls"), remote_options(max_calls=1):
        pytest.fail("the block was entered")
    with pytest.raises(ValueError, match="tasks run on this machine"):
        RayTaskRunner(address="ray://1.2.3.4:10001")
    with pytest.raises(ValueError, match="num_cpus"):
        RayTaskRunner(init_kwargs={"num_cpus": 4})
    assert RayTaskRunner() == SlotTaskRunner()
