"""Video encoder sessions, through the real binding over the double."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tests.support.nvml_stub.machines as fake
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.machines import FakeDevice, Machine

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.encoders import EncoderDetector
from prefect_slots.model.declaration import EncoderSessions

Install = Callable[[Machine], NvmlDouble]

DECLARED = EncoderSessions(name="nvenc", most=8, source="slots.toml")
GAMER = FakeDevice(uuid="GPU-g", sessions=3)
COMPUTE = FakeDevice(uuid="GPU-c", sessions_error=fake.NOT_SUPPORTED)


def look(double: Install, *cards: FakeDevice, init: int = 0) -> Answer:
    library = double(Machine(cards=cards, init=init))
    answer = EncoderDetector(DECLARED).detect(Scene())
    assert library.initialized == 0, "the library was left initialised"
    return answer


def test_the_declared_sessions_are_one_cell_however_many_cards_encode(double: Install):
    answer = look(double, GAMER, COMPUTE, GAMER)
    (resource,) = answer.resources
    assert (resource.name, resource.unit, resource.origin) == ("nvenc", "sessions", "slots.toml")
    assert [(cell.key, cell.capacity) for cell in resource.cells] == [("0", 8)]
    assert answer.findings == ()
    (sight,) = answer.sights
    assert (sight.found, sight.declared, sight.offered) == (None, 8, 8)
    assert sight.why == "6 open now on 2 with an encoder"


def test_more_sessions_than_were_declared_are_told(double: Install):
    answer = look(double, GAMER, GAMER, GAMER)
    assert answer.resources[0].capacity == 8
    assert [f.problem for f in answer.findings] == ["declared 8 sessions, but 9 are open now"]


@pytest.mark.parametrize("cards", [(), (COMPUTE,)])
def test_cards_without_an_encoder_have_no_sessions(double: Install, cards: tuple[FakeDevice, ...]):
    answer = look(double, *cards)
    assert (answer.resources, answer.unknown) == ((), set())
    assert "no card here has a video encoder" in answer.findings[0].problem


def test_a_card_that_cannot_be_asked_leaves_them_unknown(double: Install):
    answer = look(double, GAMER, FakeDevice(uuid="GPU-l", sessions_error=fake.GPU_IS_LOST))
    assert (answer.resources, answer.unknown) == ((), {"nvenc"})
    assert "GPU is lost" in answer.findings[0].problem


@pytest.mark.parametrize("init", [fake.LIBRARY_NOT_FOUND, fake.DRIVER_NOT_LOADED])
def test_without_a_driver_there_are_none(double: Install, init: int):
    answer = look(double, GAMER, init=init)
    assert (answer.resources, answer.unknown) == ((), set())


def test_a_driver_that_cannot_tell_leaves_them_unknown(double: Install):
    assert look(double, GAMER, init=fake.LIB_RM_VERSION_MISMATCH).unknown == {"nvenc"}
