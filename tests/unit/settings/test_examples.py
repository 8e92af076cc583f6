"""The files under `configs/`: every one loads, and shows what it says it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from prefect_slots.model.declaration import (
    DeclaredCard,
    DeclaredLicense,
    DetectorRules,
    EncoderSessions,
    GpuRules,
    HostRules,
    Instruments,
    ScratchSpace,
)
from prefect_slots.model.resource import Scope
from prefect_slots.settings import Settings, load_settings

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.toml"))


def load(name: str, env: Mapping[str, str] | None = None) -> Settings:
    return load_settings(CONFIGS / name, env=env or {})


def test_there_are_the_examples_that_the_documentation_names():
    assert NAMES == ["demo.toml", "instruments.toml", "licenses.toml", "shared-host.toml", "workstation.toml"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_loads_and_declares_something(name: str):
    settings = load(name)
    assert settings.source == str(CONFIGS / name)
    found = settings.declarations
    assert found.gpus != GpuRules() or found.host != HostRules() or found.licenses or found.resources or found.watched


@pytest.mark.parametrize("name", NAMES)
def test_an_example_explains_itself_before_its_first_table(name: str):
    head = (CONFIGS / name).read_text().split("\n[", 1)[0]
    assert len(re.findall(r"^# \S", head, re.MULTILINE)) >= 3


def test_the_demo_is_two_cards_two_seats_and_a_small_host():
    found = load("demo.toml").declarations
    assert found.gpus == GpuRules(
        detect=False,
        cards=(
            DeclaredCard(uuid="GPU-demo-0", memory_mib=24576),
            DeclaredCard(uuid="GPU-demo-1", memory_mib=24576),
        ),
    )
    assert found.host == HostRules(cpus=4, mem_mib=8192)
    assert found.licenses == (DeclaredLicense(feature="matlab", seats=2, scope=Scope.FLEET),)


def test_the_licences_are_four_tables_of_servers_beside_declared_seats():
    found = load("licenses.toml").declarations
    assert [(server.vendor, server.server, server.features) for server in found.license_servers] == [
        ("flexnet", "27000@lic1", (("ansys", "aa_r"),)),
        ("rlm", "5053@lic3", (("converge", "converge_super"),)),
        ("flexnet", "27000@lic1", (("wing_mesher", "SUITE"), ("wing_solver", "SUITE"))),
        ("lmx", "6200@lic2", (("mesher", "Mesher"), ("solver", "Solver:3D"))),
    ]
    assert [license.feature for license in found.licenses] == ["Image_Toolbox", "comsol", "matlab"]


def test_a_variable_wins_over_an_example():
    assert load("workstation.toml", {"PREFECT_SLOTS_MAX_OVERTAKES": "0"}).max_overtakes == 0


def test_the_shared_host_keeps_one_book_in_one_place():
    settings = load("shared-host.toml")
    assert settings.state_dir == Path("/var/lib/prefect-slots")
    assert settings.declarations.gpus.exclude == ("GPU-5f2c91aa", "GPU-b01d")


def test_a_laboratory_says_where_to_look():
    found = load("instruments.toml").declarations
    assert found.watched == (
        EncoderSessions(name="nvenc", most=8, source=found.source),
        Instruments(
            name="oscilloscope",
            patterns=("/dev/serial/by-id/usb-Rigol_*", "/dev/v4l/by-id/usb-Basler-video-index0"),
        ),
        ScratchSpace(name="scratch", folder="/var/tmp", headroom_gib=20),
    )
    assert found.detectors == (DetectorRules(name="tpu", enabled=False),)
    assert found.resources == ()
