"""The battery's laws and two processes on a real NVIDIA card; skipped, and said so, where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.nvml_stub.battery import judged, laws
from tests.support.nvml_stub.machines import MIB, Observed
from tests.support.polling import until

from prefect_slots.detect.gpu.nvidia import query_nvml
from prefect_slots.detect.gpu.usage import DeviceUse, foreign_use, query_use
from prefect_slots.system.container import query_surroundings

pytestmark = pytest.mark.gpu

HELD = 512 * MIB
AROUND = query_surroundings(Path("/"), {})


@pytest.fixture(scope="module")
def observed() -> Observed:
    seen = Observed(query_nvml(), query_use())
    if not seen.cards.gpus:
        words = seen.cards.failure.words if seen.cards.failure else "its driver lists no card"
        pytest.skip(f"NO REAL NVIDIA CARD WAS TESTED: {words}")
    return seen


@pytest.fixture
def card(observed: Observed) -> str:
    """The offered card or instance with memory of its own that has most to spare."""
    offered = {cell.key: cell.capacity for resource in judged(observed).resources for cell in resource.cells}
    spare = {
        device.uuid: offered[device.uuid] - device.used // MIB
        for device in observed.use.devices
        if device.uuid in offered and device.used is not None
    }
    best = max(spare, key=spare.__getitem__, default=None)
    if best is None or spare[best] * MIB < 4 * HELD:
        pytest.skip(f"no card here has {4 * HELD // MIB} MiB to spare: {spare}")
    return best


def use_of(card: str) -> DeviceUse:
    return next(device for device in query_use().devices if device.uuid == card)


def used(card: str) -> int:
    return use_of(card).used or 0


@contextmanager
def holding(card: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("holder.py")), str(HELD)]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": card}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n", "the card's memory could not be taken"
        yield holder


def test_what_is_true_of_every_machine_is_true_of_this_one(observed: Observed):
    laws(observed)
    assert observed.cards.state == "gpus"
    assert all(card.uuid is None or card.uuid.startswith("GPU-") for card in observed.cards.gpus)


def test_what_is_read_twice_is_the_same_but_for_what_is_used(observed: Observed):
    assert query_nvml() == observed.cards


def test_memory_of_two_processes_is_seen_told_apart_and_seen_to_go(card: str):
    before = used(card)
    with holding(card) as first, holding(card) as second:
        until(lambda: used(card) >= before + 2 * HELD, what="the memory of both")
        use = use_of(card)
        of_both, of_one, of_none = (
            foreign_use(use, own=own, around=AROUND) for own in ((), {first.pid}, {first.pid, second.pid})
        )
        assert of_both.mib is not None
        if AROUND.why_pids_mislead or use.processes is None:
            assert (of_one.mib, of_none.mib) == (None, None)
            assert of_one.why != ""
        else:
            assert of_one.mib is not None
            assert of_none.mib is not None
            assert min(use.processes[first.pid] or 0, use.processes[second.pid] or 0) >= HELD
            assert of_both.mib - of_one.mib >= HELD // MIB
            assert of_one.mib - of_none.mib >= HELD // MIB
        peak = used(card)
        first.kill()
        first.wait()
        until(lambda: used(card) <= peak - HELD, what="the memory of the killed one given back")
        assert second.poll() is None
