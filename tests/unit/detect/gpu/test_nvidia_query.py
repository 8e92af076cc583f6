"""What is read through the real binding, over a C library and over a Python double alike."""
# ruff: noqa: ARG002

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import tests.support.nvml_stub.machines as fake
from tests.support.nvml_stub.machines import GIB, MIB, FakeDevice, Machine, Read

from prefect_slots.detect.gpu.nvidia import DeviceReading, Memory, interpret_nvml, query_nvml
from prefect_slots.detect.gpu.nvml import Nvml
from prefect_slots.model import GpuRules

A = FakeDevice(uuid="GPU-aaaa")
B = FakeDevice(uuid="GPU-bbbb", name="NVIDIA H100", total=80 * GIB, reserved=1 * GIB)
READ_A = DeviceReading(index=0, uuid="GPU-aaaa", name=A.name, memory=Memory(total=24 * GIB, reserved=512 * MIB))
READ_B = DeviceReading(index=1, uuid="GPU-bbbb", name=B.name, memory=Memory(total=80 * GIB, reserved=1 * GIB))
MIG_PARENT = FakeDevice(
    uuid="GPU-mig", mig=1, pending=1, slots=7, v1_error=fake.NO_PERMISSION, v2_error=fake.NO_PERMISSION
)
SLICE = FakeDevice(uuid="MIG-1", name="NVIDIA A100 MIG 1g.5gb", total=5 * GIB, reserved=16 * MIB, gi=7)


def test_two_cards_are_read_with_identity_name_and_memory(read: Read):
    reading = read(Machine(cards=(A, B)))
    assert (reading.state, reading.failure, reading.gpus) == ("gpus", None, (READ_A, READ_B))


def test_a_card_s_compute_capability_is_that_of_its_instances_too(read: Read):
    parent = FakeDevice(uuid="GPU-mig", mig=1, pending=1, slots=7, capability=80, instances=(SLICE,))
    reading = read(Machine(cards=(replace(A, capability=75), B, parent)))
    offer = interpret_nvml(reading, GpuRules(), {}, lambda: 1)
    assert [(cell.key, cell.compute_capability) for cell in offer.resources[0].cells] == [
        ("GPU-aaaa", "7.5"),
        ("GPU-bbbb", ""),
        ("MIG-1", "8.0"),
    ]


def test_a_driver_without_cards_has_none(read: Read):
    reading = read(Machine())
    assert (reading.state, reading.gpus) == ("gpus", ())


@pytest.mark.parametrize("code", [fake.LIBRARY_NOT_FOUND, fake.DRIVER_NOT_LOADED, fake.GPU_NOT_FOUND])
def test_no_driver_is_an_answer(read: Read, code: int):
    reading = read(Machine(init=code, cards=(A,)))
    assert (reading.state, reading.gpus) == ("absent", ())
    assert reading.failure is not None
    assert reading.failure.code == code


@pytest.mark.parametrize("code", [fake.LIB_RM_VERSION_MISMATCH, fake.NO_PERMISSION, fake.GPU_IS_LOST, fake.UNKNOWN])
def test_a_driver_that_cannot_tell_is_not_taken_for_none(read: Read, code: int):
    reading = read(Machine(init=code, cards=(A,)))
    assert (reading.state, reading.gpus) == ("unknown", ())
    assert reading.failure is not None
    assert reading.failure.code == code


def test_a_count_that_fails_is_unknown(read: Read):
    reading = read(Machine(count=fake.UNKNOWN, cards=(A,)))
    assert (reading.state, reading.gpus) == ("unknown", ())


@pytest.mark.parametrize("call", ["handle_error", "uuid_error"])
def test_a_lost_card_does_not_lose_the_others(read: Read, call: str):
    reading = read(Machine(cards=(replace(A, **{call: fake.GPU_IS_LOST}), B)))
    lost, other = reading.gpus
    assert other == READ_B
    assert (lost.index, lost.uuid) == (0, None)
    assert lost.failure is not None
    assert (lost.failure.code, lost.failure.words) == (fake.GPU_IS_LOST, "GPU is lost")


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("v2_error", fake.UNKNOWN),
        ("name_error", fake.GPU_IS_LOST),
        ("mode_error", fake.GPU_IS_LOST),
        ("mig_error", fake.GPU_IS_LOST),
    ],
)
def test_a_card_that_fails_after_its_uuid_is_known_keeps_it(read: Read, call: str, code: int):
    failed, other = read(Machine(cards=(replace(A, **{call: code}), B))).gpus
    assert other == READ_B
    assert (failed.uuid, failed.memory, failed.instances) == ("GPU-aaaa", None, None)
    assert failed.failure is not None
    assert failed.failure.code == code


@pytest.mark.parametrize("code", [fake.UNKNOWN, fake.NO_PERMISSION, 2, 5])
def test_a_card_is_read_without_its_name_compute_mode_or_mig_mode(read: Read, code: int):
    """C14."""
    cards = tuple(replace(A, **{call: code}) for call in ("name_error", "mode_error", "mig_error"))
    gpus = read(Machine(cards=cards)).gpus
    expected = (replace(READ_A, name=""), replace(READ_A, compute_mode=None), READ_A)
    assert gpus == tuple(replace(gpu, index=index) for index, gpu in enumerate(expected))


def test_a_name_that_is_no_text_is_none(read: Read):
    """C14."""
    assert read(Machine(cards=(replace(A, name="\udcf8\udcffNVIDIA"),))).gpus == (replace(READ_A, name=""),)


def test_instances_tell_of_a_mig_mode_that_cannot_be_read(read: Read):
    """C14: offered whole, the card would be offered beside its instances."""
    card = replace(MIG_PARENT, mig_error=fake.UNKNOWN, instances=(replace(SLICE, slot=3, name_error=fake.UNKNOWN),))
    (parent,) = read(Machine(cards=(card,))).gpus
    assert parent.failure is None
    assert parent.instances is not None
    assert [(instance.uuid, instance.name, instance.failure) for instance in parent.instances] == [("MIG-1", "", None)]


@pytest.mark.parametrize("uuid", ["", " ", "GPU-\x07", "GPU-\udcff"])
def test_a_uuid_that_names_nothing_is_none(read: Read, uuid: str):
    """C28."""
    nameless, other = read(Machine(cards=(replace(A, uuid=uuid), B))).gpus
    assert other == READ_B
    assert nameless.uuid is None
    assert nameless.failure is not None


@pytest.mark.parametrize("code", [fake.NOT_SUPPORTED, fake.FUNCTION_NOT_FOUND, fake.ARGUMENT_VERSION_MISMATCH])
def test_a_driver_without_the_newer_memory_call_tells_the_total_only(read: Read, code: int):
    (card,) = read(Machine(cards=(replace(A, v2_error=code),))).gpus
    assert card.memory == Memory(total=24 * GIB, reserved=None)


def test_an_old_driver_lacks_the_newer_calls_and_tells_the_total_only(read: Read):
    (card,) = read(Machine(old=True, cards=(A,))).gpus
    assert card == replace(READ_A, memory=Memory(total=24 * GIB, reserved=None))


@pytest.mark.parametrize(
    "card",
    [
        replace(A, v1_error=fake.NOT_SUPPORTED, v2_error=fake.NOT_SUPPORTED),
        replace(A, total=0, reserved=0),
        replace(A, total=0, reserved=0, v2_error=fake.NOT_SUPPORTED),
    ],
)
def test_a_card_without_memory_of_its_own_has_none(read: Read, card: FakeDevice):
    assert read(Machine(cards=(card, B))).gpus == (replace(READ_A, memory=None), READ_B)


def test_compute_modes_are_read(read: Read):
    reading = read(Machine(cards=(replace(A, mode=2), replace(B, mode=3), replace(A, mode_error=fake.NOT_SUPPORTED))))
    assert [card.compute_mode for card in reading.gpus] == [2, 3, 0]


@pytest.mark.parametrize("code", [fake.NOT_SUPPORTED, fake.FUNCTION_NOT_FOUND])
def test_a_card_that_knows_no_mig_is_not_in_mig_mode(read: Read, code: int):
    assert read(Machine(cards=(replace(A, mig_error=code),))).gpus == (READ_A,)


def test_instances_behind_empty_slots_are_found_though_the_parents_memory_is_closed(read: Read):
    card = replace(MIG_PARENT, instances=(SLICE, replace(SLICE, uuid="MIG-2", slot=2, gi=9, ci=1)))
    (parent,) = read(Machine(cards=(card,))).gpus
    memory = Memory(total=5 * GIB, reserved=16 * MIB)
    first = DeviceReading(index=0, uuid="MIG-1", name=SLICE.name, memory=memory, place=(7, 0))
    second = replace(first, index=2, uuid="MIG-2", place=(9, 1))
    assert parent.instances == (first, second)
    assert (parent.memory, parent.failure, parent.mig_changing) == (None, None, False)


def test_an_instance_that_fails_does_not_lose_its_neighbours(read: Read):
    lost = replace(SLICE, handle_error=fake.GPU_IS_LOST)
    silent = replace(SLICE, slot=1, uuid="MIG-2", v2_error=fake.UNKNOWN)
    card = replace(MIG_PARENT, instances=(lost, silent, replace(SLICE, slot=5, uuid="MIG-3")))
    (parent,) = read(Machine(cards=(card,))).gpus
    assert parent.instances is not None
    assert [(i.uuid, i.failure and i.failure.code) for i in parent.instances] == [
        (None, fake.GPU_IS_LOST),
        ("MIG-2", fake.UNKNOWN),
        ("MIG-3", None),
    ]


@pytest.mark.parametrize("code", [fake.NOT_SUPPORTED, fake.UNKNOWN])
def test_an_instance_is_not_lost_for_want_of_its_numbers(read: Read, code: int):
    (parent,) = read(Machine(cards=(replace(MIG_PARENT, instances=(replace(SLICE, ids_error=code),)),))).gpus
    assert parent.instances is not None
    assert [(i.uuid, i.place, i.failure) for i in parent.instances] == [("MIG-1", None, None)]


def test_a_card_whose_instances_cannot_be_listed_is_still_known_as_a_mig_parent(read: Read):
    (parent,) = read(Machine(cards=(replace(MIG_PARENT, slots_error=fake.UNKNOWN),))).gpus
    assert (parent.uuid, parent.instances) == ("GPU-mig", ())
    assert parent.failure is not None


def test_a_mig_mode_that_waits_for_a_reset_is_read(read: Read):
    (card,) = read(Machine(cards=(replace(A, pending=1),))).gpus
    assert card == replace(READ_A, mig_changing=True)


class OldBinding:
    """An old binding over one card: bytes for text, and an error outside `NVMLError`."""

    nvmlMemory_v2 = 0

    class LibraryMismatch(Exception):
        pass

    def __init__(self, *, mismatch: bool = False) -> None:
        self.mismatch = mismatch

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None:
        raise self.LibraryMismatch("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object:
        return index

    def nvmlDeviceGetUUID(self, handle: object, /) -> bytes:
        return b"GPU-old"

    def nvmlDeviceGetName(self, handle: object, /) -> bytes:
        return b"Tesla \xff"

    def nvmlDeviceGetMemoryInfo(self, handle: object, /, version: int | None = None) -> FakeDevice:
        if self.mismatch:
            raise self.LibraryMismatch
        return A

    def nvmlDeviceGetCudaComputeCapability(self, handle: object, /) -> list[int]:
        return [8, 6]

    def nvmlDeviceGetComputeMode(self, handle: object, /) -> int:
        return 0

    def nvmlDeviceGetMigMode(self, handle: object, /) -> list[int]:
        return [0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object, /) -> int:
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int, /) -> object:
        raise AssertionError("a card outside MIG mode has no instances to ask for")


def test_text_in_bytes_is_read_and_a_failing_shutdown_loses_nothing():
    load: Any = OldBinding
    (card,) = query_nvml(load).gpus
    assert (card.uuid, card.name, card.failure) == ("GPU-old", "Tesla \ufffd", None)
    assert card.compute_capability == "8.6"


def test_an_error_that_is_not_nvmls_own_stays_with_its_card():
    load: Any = partial(OldBinding, mismatch=True)
    (card,) = query_nvml(load).gpus
    assert card.uuid == "GPU-old"
    assert card.failure is not None
    assert (card.failure.code, card.failure.words) == (None, "LibraryMismatch")


def test_a_binding_that_cannot_be_imported_is_unknown_and_not_absent():
    def load() -> Nvml:
        raise ImportError("No module named 'pynvml'")

    reading = query_nvml(load)
    assert reading.state == "unknown"
    assert reading.failure is not None
    assert "No module named" in reading.failure.words
