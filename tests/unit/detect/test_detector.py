"""Detectors that other packages bring: a real package on the path of a process, and all that one can do wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_slots.detect.detector import (
    GROUP,
    Answer,
    Detector,
    Installed,
    Probe,
    Scene,
    Sight,
    query_installed,
)
from prefect_slots.detect.survey import SHIPPED, Survey, survey
from prefect_slots.model.declaration import Declarations, DetectorRules, GpuRules, HostRules
from prefect_slots.model.finding import Finding
from prefect_slots.model.resource import Cell, Resource

TOY = """
from prefect_slots.detect.detector import Answer
from prefect_slots.model.resource import Cell, Resource


class Fpga:
    resources = frozenset({"fpga"})

    def detect(self, scene):
        boards = (scene.root / "boards").read_text().split()
        if "most" in scene.options:
            boards = boards[:scene.options["most"]]
        cells = tuple(Cell(key=board, capacity=1) for board in boards)
        return Answer(resources=(Resource(name="fpga", unit="boards", cells=cells, origin="toy"),))


broken = "not a detector"
"""
LOOK = """
import json, sys
from pathlib import Path
from prefect_slots.detect.survey import survey
from prefect_slots.settings import load_settings
seen = survey(load_settings(Path(sys.argv[2]), env={}).declarations, {}, root=Path(sys.argv[1]))
print(json.dumps({
    "cells": {r.name: [c.key for c in r.cells] for r in seen.inventory.resources if r.name not in ("cpus", "mem")},
    "unknown": sorted(seen.inventory.unknown),
    "findings": [f"{f.severity}: {f.subject}: {f.problem}" for f in seen.findings],
}))
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder as `pip install --target` leaves it, with a package that brings a detector."""
    (tmp_path / "toy_fpga.py").write_text(TOY)
    info = tmp_path / "toy_fpga-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-fpga\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nfpga = toy_fpga:Fpga\n")
    (tmp_path / "boards").write_text("board-7 board-9\n")
    return tmp_path


def look(toy: Path, config: str = "") -> dict[str, Any]:
    file = toy / "prefect-slots.toml"
    file.write_text("[gpus]\ndetect = false\n" + config)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(toy), os.environ.get("PYTHONPATH", "")])}
    child = subprocess.run(
        [sys.executable, "-c", LOOK, str(toy), str(file)], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(child.stdout)


def test_a_package_that_is_installed_is_enough(toy: Path):
    assert look(toy) == {"cells": {"fpga": ["board-7", "board-9"]}, "unknown": [], "findings": []}


def test_what_the_configuration_says_of_it_is_handed_to_it(toy: Path):
    assert look(toy, "[detectors.fpga]\nmost = 1\n")["cells"] == {"fpga": ["board-7"]}


def test_one_that_is_switched_off_does_not_look(toy: Path):
    (toy / "boards").unlink()
    assert look(toy, "[detectors.fpga]\nenabled = false\n") == {"cells": {}, "unknown": [], "findings": []}


def test_one_that_fails_makes_only_its_own_unknown(toy: Path):
    (toy / "boards").unlink()
    seen = look(toy)
    assert (seen["cells"], seen["unknown"]) == ({}, ["fpga"])
    assert seen["findings"][0].startswith("error: fpga: its detector failed: FileNotFoundError")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("toy_fpga:broken", "error: fpga: its detector failed: TypeError: toy_fpga:broken has no `resources`"),
        ("toy_fpga:Missing", "error: fpga: its detector failed: AttributeError"),
        ("no_such_module:Fpga", "error: fpga: its detector failed: ModuleNotFoundError"),
    ],
)
def test_one_that_cannot_be_loaded_leaves_what_it_is_called_after_unknown(toy: Path, target: str, words: str):
    (toy / "toy_fpga-1.0.dist-info/entry_points.txt").write_text(f"[{GROUP}]\nfpga = {target}\n")
    seen = look(toy)
    assert (seen["cells"], seen["unknown"]) == ({}, ["fpga"])
    assert seen["findings"][0].startswith(words)
    assert look(toy, "[detectors.fpga]\nenabled = false\n")["findings"] == []


def test_a_name_that_nothing_installed_has_is_told(toy: Path):
    (finding,) = look(toy, "[detectors.fgpa]\n")["findings"]
    assert finding == "warning: [detectors.fgpa]: there is none"


@pytest.mark.parametrize("command", [["detect"], ["register", "--dry-run"]])
def test_what_one_prints_is_no_part_of_what_programs_read(toy: Path, command: list[str]):
    (toy / "toy_fpga.py").write_text(TOY + "print('loading firmware')\n")
    (toy / "prefect-slots.toml").write_text("[gpus]\ndetect = false\n")
    state = {"PREFECT_SLOTS_STATE_DIR": str(toy / "state"), "PREFECT_SLOTS_COORDINATION": "local"}
    env = {**os.environ, **state, "PYTHONPATH": os.pathsep.join([str(toy), os.environ.get("PYTHONPATH", "")])}
    child = subprocess.run(
        [sys.executable, "-m", "prefect_slots", *command, "--json"],
        env=env, cwd=toy, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "resources" in json.loads(child.stdout)
    assert "loading firmware" in child.stderr


class Told:
    """Answers what it was given, or raises it."""

    def __init__(self, answer: Any, *resources: str) -> None:
        self.answer = answer
        self.resources = frozenset(resources)

    def detect(self, scene: Scene) -> Answer:  # noqa: ARG002
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def boards(name: str = "fpga", *keys: str) -> Resource:
    return Resource(name=name, unit="boards", cells=tuple(Cell(key=key, capacity=1) for key in keys), origin="toy")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (KeyError("x"), "KeyError"),
        (SystemExit(7), "SystemExit: 7"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        ("two boards", "it answered str instead of Answer"),
        (Answer(resources=cast("Any", [boards()])), "its answer.resources is list instead of tuple"),
        (Answer(resources=(boards("mem"),)), "it answered for mem, which it does not look for"),
        (Answer(unknown=frozenset({"mem"})), "it answered for mem"),
        (Answer(resources=(boards("fpga", "a"), boards("fpga", "b"))), "it answered for a resource twice"),
        *(
            (Answer(**cast("Any", {"resources": (boards(),)} | nonsense)), words)
            for nonsense, words in [
                ({"resources": ("fpga",)}, "its answer.resources[0] is str instead of Resource"),
                ({"unknown": "fpga"}, "its answer.unknown is str instead of frozenset"),
                ({"unknown_cells": None}, "its answer.unknown_cells is NoneType instead of frozenset"),
                ({"lost_cells": frozenset({7})}, "its answer.lost_cells[0] is int instead of str"),
                ({"findings": ("odd",)}, "its answer.findings[0] is str instead of Finding"),
                (
                    {"findings": (Finding(subject="fpga", problem="odd", severity=cast("Any", "fatal")),)},
                    "its answer.findings[0].severity is 'fatal', not one of info, warning, error",
                ),
                (
                    {"sights": (Sight(resource="fpga", key="a", unit="boards", found=cast("Any", "many")),)},
                    "its answer.sights[0].found is 'many'",
                ),
            ]
        ),
    ],
)
def test_whatever_one_does_wrong_leaves_unknown_what_it_looks_for_and_nothing_else(answer: Any, words: str):
    seen = Probe(name="toy", detector=Told(answer, "fpga", "dsp")).run()
    assert (seen.resources, seen.unknown) == ((), {"fpga", "dsp"})
    assert words in seen.findings[0].problem


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"key": "a\udcff"}, r"its answer.resources[0].cells[0].key cannot be printed: 'a\udcff'"),
        ({"label": "\x1b[31m"}, r"its answer.resources[0].cells[0].label cannot be printed: '\x1b[31m'"),
        ({"label": None}, "its answer.resources[0].cells[0].label is NoneType instead of str"),
        ({"capacity": 2.5}, "its answer.resources[0].cells[0].capacity is float instead of int"),
        ({"capacity": True}, "its answer.resources[0].cells[0].capacity is bool instead of int"),
        ({"index": "x"}, "its answer.resources[0].cells[0].index is 'x'"),
    ],
)
def test_a_cell_that_could_not_be_written_down_is_refused(odd: Any, words: str):
    resource = replace(boards(), cells=(Cell(**({"key": "a", "capacity": 1} | odd)),))
    seen = Probe(name="toy", detector=Told(Answer(resources=(resource,)), "fpga")).run()
    assert (seen.resources, seen.unknown) == ((), {"fpga"})
    assert words in seen.findings[0].problem


def test_a_scope_is_no_text():
    seen = Probe(
        name="toy", detector=Told(Answer(resources=(replace(boards(), scope=cast("Any", "worker")),)), "fpga")
    ).run()
    assert "its answer.resources[0].scope is str instead of Scope" in seen.findings[0].problem


@pytest.mark.parametrize("resources", ["fpga", None, [["fpga"]], {7}])
def test_one_that_does_not_say_what_it_looks_for_is_taken_by_its_name(resources: Any):
    detector = Told(Answer(resources=(boards(),)))
    detector.resources = resources
    seen = Probe(name="fpga", detector=detector).run()
    assert (seen.resources, seen.unknown) == ((), {"fpga"})
    assert Probe(name="fpga", detector=detector).hanging("hangs").unknown == {"fpga"}


def test_one_that_wants_to_end_the_process_while_it_is_loaded_ends_nothing(toy: Path):
    (toy / "toy_fpga.py").write_text("import sys\nsys.exit('no board driver')\n")
    seen = look(toy)
    assert seen["unknown"] == ["fpga"]
    assert seen["findings"] == ["error: fpga: its detector failed: SystemExit: no board driver"]


@pytest.mark.parametrize("name", ["FPGA", "gpus", "a:b"])
def test_a_name_that_no_task_could_ask_for_is_refused(name: str):
    seen = Probe(name="toy", detector=Told(Answer(resources=(boards(name),)), name)).run()
    assert (seen.resources, seen.unknown) == ((), {name})


@pytest.mark.parametrize("name", ["fpga", "gpu_mem", "license.ansys"])
def test_a_true_answer_is_passed_on(name: str):
    answer = Answer(resources=(boards(name, "a"),))
    assert Probe(name="toy", detector=Told(answer, name)).run() is answer


def among(tmp_path: Path, *rules: DetectorRules, **detectors: Detector) -> Survey:
    return survey(
        Declarations(gpus=GpuRules(detect=False), host=HostRules(cpus=1, mem_mib=64), detectors=rules),
        {},
        root=tmp_path,
        installed=lambda: Installed(detectors),
    )


@settings(deadline=None)
@given(
    fails=st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
    off=st.sets(st.sampled_from("abcdef")),
)
def test_whichever_fail_the_others_are_all_seen(fails: dict[str, bool], off: set[str]):
    detectors = {
        name: Told(OSError("gone") if failing else Answer(resources=(boards(name, "0"),)), name)
        for name, failing in fails.items()
    }
    rules = [DetectorRules(name=name, enabled=name not in off) for name in fails]
    seen = among(Path("/nowhere"), *rules, **detectors)
    on = {name: failing for name, failing in fails.items() if name not in off}
    assert {r.name for r in seen.inventory.resources} - {"cpus", "mem"} == {
        n for n, failing in on.items() if not failing
    }
    assert seen.inventory.unknown == {name for name, failing in on.items() if failing}
    assert [finding.subject for finding in seen.findings] == sorted(seen.inventory.unknown)


def test_of_two_that_find_the_same_the_first_by_name_is_believed_and_the_other_told(tmp_path: Path):
    one, other = (
        Told(Answer(resources=(boards("fpga", "a"),)), "fpga"),
        Told(Answer(resources=(boards("fpga", "b", "c"),)), "fpga"),
    )
    seen = among(tmp_path, zeta=other, alpha=one)
    assert [cell.key for cell in seen.inventory["fpga"].cells] == ["a"]
    assert [(f.severity, f.problem) for f in seen.findings] == [
        ("info", "what toy tells is left out beside what another one tells: b, c")
    ]
    assert {sight.key: (sight.found, sight.offered) for sight in seen.sights if sight.resource == "fpga"} == {
        "a": (1, 1),
        "b": (1, None),
        "c": (1, None),
    }


def test_beside_one_that_cannot_tell_another_does_not_take_its_place(tmp_path: Path):
    blind = Told(Answer(unknown=frozenset({"fpga"})), "fpga")
    seen = among(tmp_path, alpha=blind, zeta=Told(Answer(resources=(boards("fpga", "b"),)), "fpga"))
    assert ("fpga" in seen.inventory, seen.inventory.unknown) == (False, {"fpga"})


def test_without_detection_of_cards_none_shipped_here_looks_for_them(tmp_path: Path):
    (tmp_path / "sys/class").mkdir(parents=True)
    (tmp_path / "sys/class/drm").write_text("no folder")
    assert among(tmp_path).findings == ()
    seen = survey(Declarations(host=HostRules(cpus=1, mem_mib=64)), {}, root=tmp_path)
    assert "gpu_mem" in seen.inventory.unknown
    off = tuple(DetectorRules(name=name, enabled=False) for name in ("amd", "intel"))
    seen = survey(Declarations(host=HostRules(cpus=1, mem_mib=64), detectors=off), {}, root=tmp_path)
    assert "gpu_mem" not in seen.inventory.unknown


def test_what_is_shipped_looks_for_what_it_says():
    assert {name: set(detector.resources) for name, detector in SHIPPED.items()} == {
        "amd": {"gpu_mem"},
        "apple": {"gpu_mem"},
        "intel": {"gpu_mem"},
        "tpu": {"tpu"},
    }


def test_the_packages_of_this_environment_bring_nothing_that_fails():
    assert query_installed().failed == {}
