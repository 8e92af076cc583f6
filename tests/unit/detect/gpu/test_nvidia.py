"""What cards that were read offer: capacity, rules, what is unknown, and what people are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_slots.detect.detector import Answer
from prefect_slots.detect.gpu.nvidia import DeviceReading, Memory, NvmlReading, interpret_nvml
from prefect_slots.detect.gpu.nvml import Failure
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.declaration import GpuRules
from prefect_slots.model.resource import Cell, Resource
from prefect_slots.system.container import Surroundings

MIB = 2**20
LOST = Failure(code=15, words="GPU is lost")
A = DeviceReading(index=0, uuid="GPU-a", name="A100", memory=Memory(total=40960 * MIB, reserved=511 * MIB + 1))
B = DeviceReading(index=1, uuid="GPU-b", name="A100", memory=Memory(total=24576 * MIB, reserved=0))
SLICE = DeviceReading(index=0, uuid="MIG-1", name="A100 MIG 1g.5gb", memory=Memory(total=4864 * MIB, reserved=0))
MIG = DeviceReading(index=2, uuid="GPU-m", name="A100", instances=(SLICE, replace(SLICE, index=4, uuid="MIG-2")))
NAMELESS = DeviceReading(index=0, failure=LOST)


def judge(
    *cards: DeviceReading, rules: GpuRules | None = None, visible: str | None = None, host: int = 65536
) -> Answer:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return interpret_nvml(NvmlReading(state="gpus", gpus=cards), rules or GpuRules(), env, lambda: host)


def cells(answer: Answer) -> dict[str, int]:
    return {cell.key: cell.capacity for resource in answer.resources for cell in resource.cells}


def told(answer: Answer) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.subject, finding.problem) for finding in answer.findings]


def test_each_card_is_a_cell_of_what_its_driver_leaves_in_whole_mib_rounded_down():
    answer = judge(A, B)
    assert (answer.findings, answer.unknown, answer.unknown_cells) == ((), set(), set())
    assert answer.resources == (
        Resource(
            name="gpu_mem",
            unit="MiB",
            origin="nvml",
            cells=(
                Cell(key="GPU-a", capacity=40960 - 512, label="A100", index=0),
                Cell(key="GPU-b", capacity=24576, label="A100", index=1),
            ),
        ),
    )


def test_headroom_is_kept_on_each_card():
    assert cells(judge(A, B, rules=GpuRules(headroom_mib=1024))) == {"GPU-a": 39424, "GPU-b": 23552}


def test_a_card_that_headroom_eats_up_is_no_cell_and_is_told():
    answer = judge(A, B, rules=GpuRules(headroom_mib=24576))
    assert cells(answer) == {"GPU-a": 15872}
    assert told(answer) == [("warning", "GPU-b", "headroom 24GiB leaves nothing of 24GiB")]


def sights(answer: Answer) -> dict[str, tuple[int | None, int | None, str]]:
    return {sight.key: (sight.found, sight.offered, sight.why) for sight in answer.sights}


def test_every_card_is_told_with_what_became_of_it():
    unreadable = replace(B, uuid="GPU-lost", memory=None, failure=LOST)
    prohibited = replace(B, index=3, uuid="GPU-p", compute_mode=2)
    answer = judge(A, unreadable, MIG, prohibited, rules=GpuRules(exclude=("MIG-2",), headroom_mib=1024))
    assert sights(answer) == {
        "GPU-a": (40960, 39424, "less 512MiB that the driver keeps, less 1GiB headroom"),
        "GPU-lost": (None, None, "cannot be read: GPU is lost"),
        "GPU-m": (None, None, "in MIG mode: its instances are offered instead"),
        "MIG-1": (4864, 3840, "less 1GiB headroom"),
        "MIG-2": (4864, None, "left out by [gpus] exclude"),
        "GPU-p": (24576, None, "its compute mode is PROHIBITED"),
    }
    hidden = judge(A, replace(MIG, index=1), visible="MIG-1")
    assert sights(hidden)["GPU-a"] == (40960, None, "hidden by CUDA_VISIBLE_DEVICES")
    assert sights(hidden)["MIG-2"] == (4864, None, "hidden by CUDA_VISIBLE_DEVICES")
    assert sights(judge(B, rules=GpuRules(headroom_mib=24576)))["GPU-b"] == (24576, None, "less 24GiB headroom")
    assert sights(judge(replace(A, memory=None), host=9))["GPU-a"][:2] == (9, 9)


def test_no_cards_are_no_resource():
    assert judge() == Answer()


def test_excluded_cards_are_left_out_by_prefix_in_either_case():
    answer = judge(A, B, MIG, rules=GpuRules(exclude=("gpu-A", "GPU-m")))
    assert (cells(answer), answer.findings) == ({"GPU-b": 24576}, ())


def test_an_instance_can_be_excluded_alone():
    assert cells(judge(MIG, rules=GpuRules(exclude=("MIG-1",)))) == {"MIG-2": 4864}


def test_a_prefix_that_names_no_card_is_told():
    answer = judge(A, rules=GpuRules(exclude=("GPU-zz",)))
    assert cells(answer) == {"GPU-a": 40448}
    assert told(answer) == [("warning", "GPU-zz", "[gpus] exclude names no card of this machine")]


def test_a_prefix_that_may_name_a_card_that_cannot_be_read_is_not_called_wrong():
    assert [subject for _, subject, _ in told(judge(NAMELESS, rules=GpuRules(exclude=("GPU-zz",))))] == ["card 0"]


def test_only_visible_cards_are_offered():
    assert cells(judge(A, B, visible="GPU-b")) == {"GPU-b": 24576}
    assert cells(judge(A, B, visible="0")) == {"GPU-a": 40448}
    assert judge(A, B, visible="").resources == ()


def test_what_visible_devices_says_is_passed_on():
    assert "names no card here" in judge(A, visible="GPU-a,GPU-x").findings[0].problem


def test_a_prohibited_card_offers_nothing_and_is_told():
    answer = judge(replace(A, compute_mode=2), B)
    assert cells(answer) == {"GPU-b": 24576}
    assert told(answer) == [("warning", "GPU-a", "its compute mode PROHIBITED offers no slot")]
    assert answer.unknown_cells == set()


def test_an_exclusive_card_is_offered_to_one_holder_at_a_time():
    answer = judge(replace(A, compute_mode=3), B)
    (resource,) = answer.resources
    assert [(cell.capacity, isinstance(cell.capacity, Exclusive)) for cell in resource.cells] == [
        (40448, True),
        (24576, False),
    ]
    problem = "its compute mode EXCLUSIVE_PROCESS lets one process use it at a time, so each request takes it whole"
    assert told(answer) == [("info", "GPU-a", problem)]
    assert sights(answer)["GPU-a"][2] == "less 512MiB that the driver keeps, one holder at a time (EXCLUSIVE_PROCESS)"


def test_an_exclusive_card_under_mps_is_shared():
    # The service is its one process, and all that use the card are the service's clients.
    reading = NvmlReading(state="gpus", gpus=(replace(B, compute_mode=3),))
    answer = interpret_nvml(reading, GpuRules(), {}, lambda: 1, Surroundings(mps=True))
    assert not isinstance(answer.resources[0].cells[0].capacity, Exclusive)
    assert answer.findings == ()


DENIED = Failure(code=4, words="no permission")
NAMELESS_MIG = replace(MIG, instances=(SLICE, DeviceReading(index=4, failure=LOST)))


@pytest.mark.parametrize(
    ("cards", "lost", "lost_cells"),
    [
        ((A, replace(B, failure=LOST)), set[str](), {"GPU-b"}),
        ((A, replace(B, failure=DENIED)), set[str](), set[str]()),
        ((NAMELESS, B), {"gpu_mem"}, set[str]()),
        ((replace(NAMELESS, failure=DENIED), B), set[str](), set[str]()),
        ((NAMELESS, replace(NAMELESS, index=1, failure=DENIED)), set[str](), set[str]()),
        ((NAMELESS_MIG, A), {"gpu_mem"}, set[str]()),
    ],
    ids=["lost", "forbidden", "lost without a name", "forbidden without a name", "both", "an instance"],
)
def test_only_what_the_driver_calls_lost_is_lost(
    cards: tuple[DeviceReading, ...], lost: set[str], lost_cells: set[str]
):
    answer = judge(*cards)
    assert (answer.lost, answer.lost_cells) == (lost, lost_cells)
    assert answer.lost <= answer.unknown
    assert answer.lost_cells <= answer.unknown_cells


def test_an_untold_reserve_is_warned_of_until_a_headroom_covers_it():
    card = replace(B, memory=Memory(total=24576 * MIB, reserved=None))
    answer = judge(card)
    assert cells(answer) == {"GPU-b": 24576}
    assert told(answer) == [("warning", "GPU-b", "this driver does not tell how much memory it keeps for itself")]
    assert judge(card, rules=GpuRules(headroom_mib=1024)).findings == ()


@pytest.mark.parametrize(("headroom", "severity"), [(0, "warning"), (16384, "info")])
def test_a_card_without_memory_of_its_own_offers_the_hosts(headroom: int, severity: str):
    answer = judge(replace(A, memory=None), rules=GpuRules(headroom_mib=headroom), host=65536)
    assert cells(answer) == {"GPU-a": 65536 - headroom}
    assert told(answer) == [(severity, "GPU-a", "it shares the host's memory: gpu_mem and mem count the same bytes")]


@pytest.mark.parametrize("error", [OSError("no /proc"), ValueError("no number")])
def test_a_card_whose_host_cannot_be_read_is_unknown(error: Exception):
    def host() -> int:
        raise error

    reading = NvmlReading(state="gpus", gpus=(replace(A, memory=None), B))
    answer = interpret_nvml(reading, GpuRules(), {}, host)
    assert (cells(answer), answer.unknown_cells) == ({"GPU-b": 24576}, {"GPU-a"})
    assert told(answer) == [("error", "GPU-a", f"cannot be read: {error}")]


def test_a_failed_card_of_known_identity_is_an_unknown_cell():
    answer = judge(replace(A, memory=None, failure=LOST), B)
    assert (cells(answer), answer.unknown_cells, answer.unknown) == ({"GPU-b": 24576}, {"GPU-a"}, set())
    assert told(answer) == [("error", "GPU-a", "cannot be read: GPU is lost")]
    assert "reboot" in answer.findings[0].remedy


def test_a_failed_card_that_is_not_ours_to_use_is_not_told():
    failed = replace(A, memory=None, failure=LOST)
    for answer in (judge(failed, B, visible="GPU-b"), judge(failed, B, rules=GpuRules(exclude=("GPU-a",)))):
        assert (answer.unknown_cells, answer.unknown, answer.findings) == (set(), set(), ())


def test_a_card_without_identity_makes_the_resource_unknown_beside_the_cells_that_were_read():
    answer = judge(NAMELESS, B)
    assert (cells(answer), answer.unknown, answer.unknown_cells) == ({"GPU-b": 24576}, {"gpu_mem"}, set())
    assert told(answer) == [("error", "card 0", "cannot be read: GPU is lost")]


@pytest.mark.parametrize(
    ("visible", "unknown"),
    [("0", {"gpu_mem"}), ("1", set[str]()), ("GPU-b", set[str]()), ("GPU-lost", {"gpu_mem"}), ("", set[str]())],
)
def test_a_card_without_identity_matters_only_where_it_may_be_the_one_to_use(visible: str, unknown: set[str]):
    answer = judge(NAMELESS, B, visible=visible)
    assert answer.unknown == unknown
    assert ("card 0" in [finding.subject for finding in answer.findings]) == bool(unknown)


def test_instances_are_cells_and_their_parent_is_none():
    answer = judge(A, MIG)
    assert cells(answer) == {"GPU-a": 40448, "MIG-1": 4864, "MIG-2": 4864}
    (resource,) = answer.resources
    assert [(cell.key, cell.label, cell.index) for cell in resource.cells][1:] == [
        ("MIG-1", "A100 MIG 1g.5gb", 2),
        ("MIG-2", "A100 MIG 1g.5gb", 2),
    ]


def test_only_the_instance_that_is_visible_is_offered():
    assert cells(judge(A, MIG, visible="MIG-2")) == {"MIG-2": 4864}


def test_mig_mode_without_instances_offers_nothing_and_is_told():
    answer = judge(replace(MIG, instances=()))
    assert (answer.resources, answer.unknown) == ((), set())
    assert told(answer) == [("warning", "GPU-m", "it is in MIG mode and has no instance, so it offers no slot")]


def test_a_failed_instance_is_unknown_and_its_neighbours_stay():
    silent = replace(SLICE, uuid="MIG-2", memory=None, failure=LOST)
    answer = judge(replace(MIG, instances=(SLICE, silent)))
    assert (cells(answer), answer.unknown_cells, answer.unknown) == ({"MIG-1": 4864}, {"MIG-2"}, set())


def test_an_instance_without_identity_makes_the_resource_unknown():
    answer = judge(replace(MIG, instances=(SLICE, NAMELESS)))
    assert (cells(answer), answer.unknown) == ({"MIG-1": 4864}, {"gpu_mem"})


def test_instances_that_cannot_be_listed_make_the_resource_unknown():
    answer = judge(B, replace(MIG, instances=(), failure=LOST))
    assert (cells(answer), answer.unknown, answer.unknown_cells) == ({"GPU-b": 24576}, {"gpu_mem"}, {"GPU-m"})


def test_a_mig_mode_that_waits_for_a_reset_is_told():
    answer = judge(replace(A, mig_changing=True))
    assert cells(answer) == {"GPU-a": 40448}
    assert told(answer) == [("warning", "GPU-a", "its MIG mode changes at the next reset of the card")]


def test_no_nvidia_here_is_a_remark():
    reading = NvmlReading(state="absent", failure=Failure(code=12, words="NVML Shared Library Not Found"))
    answer = interpret_nvml(reading, GpuRules(), {}, lambda: 1)
    assert (answer.resources, answer.unknown) == ((), set())
    assert told(answer) == [("info", "gpu_mem", "no NVIDIA card here (NVML Shared Library Not Found)")]


ABSENT = NvmlReading(state="absent", failure=Failure(code=12, words="not found"))


@pytest.mark.parametrize(
    ("around", "problem"),
    [
        (Surroundings(nvidia_gpus=2), "2 NVIDIA on the PCI bus, but no driver answers (not found)"),
        (Surroundings(tegra=True), "this is a Jetson, and its NVML does not answer (not found)"),
    ],
)
def test_a_driver_that_is_not_there_though_a_card_is_gets_a_warning(around: Surroundings, problem: str):
    answer = interpret_nvml(ABSENT, GpuRules(), {}, lambda: 1, around)
    assert (answer.resources, answer.unknown) == ((), set())
    assert told(answer) == [("warning", "gpu_mem", problem)]


def test_windows_driver_that_the_loader_does_not_find_leaves_the_cards_unknown():
    answer = interpret_nvml(ABSENT, GpuRules(), {}, lambda: 1, Surroundings(wsl=True, wsl_library=True))
    assert answer.unknown == {"gpu_mem"}
    assert told(answer)[0][:2] == ("error", "gpu_mem")
    unloaded = replace(ABSENT, failure=Failure(code=9, words="driver not loaded"))
    assert interpret_nvml(unloaded, GpuRules(), {}, lambda: 1, Surroundings(wsl_library=True)).unknown == set()


def test_what_a_containers_runtime_was_asked_for_narrows_nothing():
    # The runtime has acted on it before, and images set it to `all` without any card.
    for listed in ("void", "GPU-b", "1", "all"):
        answer = interpret_nvml(
            NvmlReading(state="gpus", gpus=(A,)), GpuRules(), {"NVIDIA_VISIBLE_DEVICES": listed}, lambda: 1
        )
        assert (cells(answer), answer.findings) == ({"GPU-a": 40448}, ())


@pytest.mark.parametrize(("value", "unknown"), [("1", {"gpu_mem"}), ("0", set[str]())])
def test_parts_of_mps_are_not_taken_for_cards(value: str, unknown: set[str]):
    reading = NvmlReading(state="gpus", gpus=(A,))
    answer = interpret_nvml(reading, GpuRules(), {"NVML_MPS_DEVICE_ENUMERATION": value}, lambda: 1)
    assert (answer.unknown, cells(answer)) == (unknown, {} if unknown else {"GPU-a": 40448})
    assert [finding.severity for finding in answer.findings] == ["error"] * len(unknown)


def test_an_instance_may_be_named_as_older_drivers_do():
    card = replace(MIG, instances=tuple(replace(i, place=(n, 0)) for n, i in enumerate(MIG.instances or ())))
    answer = judge(card, visible="MIG-GPU-m/1/0")
    assert (cells(answer), answer.findings) == ({"MIG-2": 4864}, ())


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(18, "upgraded while loaded: reboot"), (4, "/dev/nvidia*"), (999, "nvidia-smi"), (None, "nvidia-smi")],
)
def test_a_driver_that_does_not_answer_leaves_the_resource_unknown_with_a_remedy(code: int | None, remedy: str):
    reading = NvmlReading(state="unknown", failure=Failure(code=code, words="no answer"))
    answer = interpret_nvml(reading, GpuRules(), {}, lambda: 1)
    assert (answer.resources, answer.unknown) == ((), {"gpu_mem"})
    assert told(answer) == [("error", "gpu_mem", "NVIDIA's cards cannot be read: no answer")]
    assert remedy in answer.findings[0].remedy


CI = replace(SLICE, name="A100 MIG 1c.3g.20gb", place=(1, 0))


@pytest.mark.parametrize(
    ("places", "offered"),
    [
        (((1, 0), (1, 1), (1, 2)), {"MIG-1"}),
        (((1, 0), (2, 0), (2, 1)), {"MIG-1", "MIG-2"}),
        ((None, None, None), {"MIG-1"}),
        # Numbers that cannot be: two instances are at one place.
        (((0, 0), (0, 0), (0, 0)), {"MIG-1", "MIG-2", "MIG-3"}),
    ],
)
def test_compute_instances_of_one_gpu_instance_are_one_cell(
    places: tuple[tuple[int, int] | None, ...], offered: set[str]
):
    """C05: NVML tells the memory of the GPU instance for each."""
    instances = tuple(replace(CI, index=n, uuid=f"MIG-{n + 1}", place=place) for n, place in enumerate(places))
    answer = judge(replace(MIG, instances=instances))
    assert cells(answer).keys() == offered
    assert all("shares the memory of MIG-" in sight.why for sight in answer.sights[1:] if sight.offered is None)


def test_whole_instances_without_numbers_are_cells_of_their_own():
    assert cells(judge(replace(MIG, instances=(SLICE, replace(SLICE, uuid="MIG-2"))))).keys() == {"MIG-1", "MIG-2"}


def test_of_compute_instances_the_one_that_may_be_used_is_offered():
    """C05."""
    card = replace(MIG, instances=(CI, replace(CI, uuid="MIG-2", place=(1, 1))))
    assert cells(judge(card, visible="MIG-2")) == {"MIG-2": 4864}
    assert cells(judge(card, rules=GpuRules(exclude=("MIG-1",)))) == {"MIG-2": 4864}
