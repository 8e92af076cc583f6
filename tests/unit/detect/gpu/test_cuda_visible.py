"""`CUDA_VISIBLE_DEVICES` as CUDA reads it: examples of each rule, and laws over its whole grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.detect.gpu.cuda_visible import Device, Visible, interpret_visible

DEVICES = (
    Device(index=0, uuid="GPU-aa11", name="A100"),
    Device(index=1, uuid="GPU-aa22", name="A100"),
    Device(index=2, uuid="GPU-bb33", name="A100", instances=("MIG-c1", "MIG-c2")),
)
ALL = {0, 1, 2}


def see(text: str | None, devices: tuple[Device, ...] = DEVICES, **env: str) -> Visible:
    return interpret_visible(env if text is None else {"CUDA_VISIBLE_DEVICES": text, **env}, devices)


def problems(visible: Visible) -> str:
    return " | ".join(f"{finding.severity}: {finding.problem}" for finding in visible.findings)


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        (None, ALL),
        ("0,1,2", ALL),
        ("2,0", {0, 2}),
        (" 1 , 0 ", {0, 1}),
        ("1gpu,+2", {1, 2}),
        ("GPU-aa11", {0}),
        ("GPU-bb,GPU-aa2", {1, 2}),
    ],
)
def test_a_list_without_mistakes_shows_what_it_names_and_says_nothing(text: str | None, cards: set[int]):
    visible = see(text)
    assert (visible.gpus, visible.complete, visible.findings) == (cards, True, ())


@pytest.mark.parametrize("text", ["", "NoDevFiles", "-1", "none", "-1,0", ",0"])
def test_the_ways_to_ask_for_no_card_show_none_and_are_no_mistake(text: str):
    visible = see(text)
    assert (visible.gpus, visible.instances, visible.complete) == (set(), set(), True)
    assert [finding.severity for finding in visible.findings] == ["info"]
    assert f"CUDA_VISIBLE_DEVICES={text!r} shows no card" in problems(visible)


@pytest.mark.parametrize(
    ("text", "cards", "culprit"),
    [
        ("0,2,-1,1", {0, 2}, "'-1'"),
        ("0,7,1", {0}, "'7'"),
        ("0,GPU-aa22", {0}, "'GPU-aa22'"),
        ("GPU-aa11,1", {0}, "'1'"),
        ("GPU-aa11,GPU-zz,GPU-bb33", {0}, "'GPU-zz'"),
        ("GPU-aa11,MIG-c1", {0}, "'MIG-c1'"),
        ("GPU-aa11,GPU-aa", {0}, "'GPU-aa'"),
        ("0,", {0}, "''"),
        ("all", set[int](), "'all'"),
        ("gpu-aa11", set[int](), "'gpu-aa11'"),
    ],
)
def test_the_list_ends_at_the_first_entry_that_names_no_card(text: str, cards: set[int], culprit: str):
    visible = see(text)
    assert visible.gpus == cards
    assert f"warning: CUDA_VISIBLE_DEVICES={text!r}: {culprit} names no card here" in problems(visible)


@pytest.mark.parametrize("text", ["0,0", "1,0,1", "GPU-aa11,GPU-aa11", "GPU-aa1,GPU-aa11", "MIG-c1,MIG-c1"])
def test_a_card_listed_twice_shows_none(text: str):
    visible = see(text)
    assert (visible.gpus, visible.instances) == (set(), set())
    assert "shows no card" in problems(visible)


def test_a_whole_uuid_wins_over_one_that_it_begins():
    devices = (Device(index=0, uuid="GPU-a"), Device(index=1, uuid="GPU-ab"))
    assert see("GPU-a", devices).gpus == {0}


def test_a_card_in_mig_mode_brings_its_instances():
    assert see(None).instances == {"MIG-c1", "MIG-c2"}
    assert see("2").instances == {"MIG-c1", "MIG-c2"}
    assert see("GPU-bb").instances == {"MIG-c1", "MIG-c2"}
    assert see("0").instances == set()


def test_of_several_instances_a_process_sees_the_first():
    visible = see("MIG-c2,MIG-c1")
    assert (visible.gpus, visible.instances) == ({2}, {"MIG-c2"})
    assert "lists 2 MIG instances" in problems(visible)
    assert see("MIG-c1").findings == ()
    other = Device(index=3, uuid="GPU-dd44", instances=("MIG-d1",))
    assert see("MIG-d1,MIG-c1", (*DEVICES, other)).gpus == {3}


def test_an_instance_that_is_not_here_leaves_the_answer_open():
    visible = see("MIG-zz")
    assert (visible.gpus, visible.instances, visible.complete) == (set(), set(), False)


def test_a_uuid_that_names_no_readable_card_may_be_one_that_cannot_be_read():
    devices = (Device(index=0, uuid=None), DEVICES[1])
    assert not see("GPU-lost", devices).complete
    assert see("GPU-aa22", devices).complete
    assert see("0", devices).gpus == {0}


MIXED = (Device(index=0, uuid="GPU-1", name="T400"), Device(index=1, uuid="GPU-2", name="H100"))


def test_a_number_is_ambiguous_where_cards_differ_and_the_order_is_cudas_own():
    assert "the cards differ" in problems(see("0", MIXED))
    assert see("0", MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID").findings == ()
    assert "the cards differ" in problems(see("0", MIXED, CUDA_DEVICE_ORDER="FASTEST_FIRST"))


@pytest.mark.parametrize("text", ["GPU-1", "0,1", "1,0"])
def test_uuids_and_the_whole_of_the_cards_are_never_ambiguous(text: str):
    assert see(text, MIXED).findings == ()


ENTRIES = st.one_of(
    st.integers(-2, 4).map(str),
    st.sampled_from([*(d.uuid or "" for d in DEVICES), "GPU-aa", "GPU-b", "MIG-c1", "MIG-c2", "MIG-", "", "none", "x"]),
    st.text(max_size=4),
)
LISTS = st.lists(ENTRIES, max_size=5).map(",".join)


@given(text=st.one_of(LISTS, st.text()))
def test_any_text_shows_a_part_of_the_cards_and_explains_when_it_shows_none(text: str):
    visible = see(text)
    assert visible.gpus <= ALL
    assert visible.instances <= {"MIG-c1", "MIG-c2"}
    assert not visible.instances or 2 in visible.gpus
    assert visible.gpus or visible.findings
    assert visible.complete or visible.findings


@given(chosen=st.lists(st.sampled_from(DEVICES), unique=True, min_size=1), by_number=st.booleans())
def test_a_list_of_distinct_cards_shows_exactly_these_however_they_are_named(chosen: list[Device], by_number: bool):
    text = ",".join(str(device.index) if by_number else str(device.uuid) for device in chosen)
    assert see(text).gpus == {device.index for device in chosen}


@given(good=st.lists(st.sampled_from(DEVICES), unique=True, min_size=1), rest=LISTS, by_number=st.booleans())
def test_nothing_after_an_entry_that_names_no_card_matters(good: list[Device], rest: str, by_number: bool):
    head = ",".join(str(device.index) if by_number else str(device.uuid) for device in good)
    assert see(f"{head},no-such,{rest}").gpus == {device.index for device in good}


@given(text=LISTS)
def test_spaces_around_entries_do_not_matter(text: str):
    spaced = ",".join(f" {entry}\t" for entry in text.split(","))
    assert (see(spaced).gpus, see(spaced).instances) == (see(text).gpus, see(text).instances)
