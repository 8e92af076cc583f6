"""The demo as a person runs it: real flow runs on a private server, within every limit, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from tests.support.polling import until

from prefect_slots.ledger.queries import Span
from prefect_slots.observe.timeline import stacked

# Like the tests of the server group, each of these keeps two cores busy.
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

FAILING = """
import sys
if sys.orig_argv[1:3] == ["-m", "prefect.engine"]:
    import skimage.restoration
    def broken(*arguments, **named):
        raise RuntimeError("the film tore")
    skimage.restoration.denoise_nl_means = broken
"""


class Demo:
    """A `prefect-slots demo` of its own, whose home, temporary folder and output are in `folder`."""

    def __init__(self, folder: Path, *flags: str, **extra: str) -> None:
        self.folder = folder
        for part in ("home", "tmp"):
            (folder / part).mkdir()
        self.out = folder / "out"
        # What a user may have set must not reach the demo's server, worker or flow runs.
        users = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_SLOTS_COORDINATION": "off", "WORKER_ID": "mine"}
        env = os.environ | users | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")} | extra
        del env["PREFECT_HOME"]
        self._said = (folder / "said").open("w+b")
        command = [sys.executable, "-m", "prefect_slots", "demo", "--out", str(self.out), *flags]
        self.process = subprocess.Popen(
            command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True
        )

    def says(self, text: str) -> bool:
        said = self.said()
        assert self.process.poll() is None or text in said, said[-4000:]
        return text in said

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")

    def end(self, seconds: float) -> tuple[int, str]:
        printed, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, printed.decode()

    def processes(self) -> list[psutil.Process]:
        """Every process that was started below this one: whatever it did, it inherited the temporary folder."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR", "").startswith(str(self.folder)):
                    found.append(process)
        return found

    def left(self) -> dict[str, list[Any]]:
        """Return what is left of it."""
        return {
            "processes": [process.cmdline() for process in self.processes()],
            "files": [*(self.folder / "home").rglob("*"), *(self.folder / "tmp").rglob("*")],
        }

    def close(self) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._said.close()


NOTHING: dict[str, list[Any]] = {"processes": [], "files": []}


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[list[Demo]]:
    """Demos that are ended, if need be, with the test."""
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_server_starts_leaves_nothing(number: signal.Signals, tmp_path: Path, demos: list[Demo]):
    demo = Demo(tmp_path, "--json")
    demos.append(demo)
    until(lambda: len(demo.processes()) > 1, 30, what="the server's process")
    demo.process.send_signal(number)
    assert demo.end(30) == (128 + number, "")
    assert demo.left() == NOTHING
    assert not demo.out.exists()


@pytest.mark.slow
def test_ctrl_c_while_the_worker_starts_leaves_nothing(tmp_path: Path, demos: list[Demo]):
    demo = Demo(tmp_path, "--json")
    demos.append(demo)
    until(lambda: demo.says("prefect work-pool create"), 100, what="the server and the pool")
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(30) == (130, "")
    assert "everything was cleaned up" in demo.said()
    assert demo.left() == NOTHING
    assert not demo.out.exists()


def test_a_server_that_cannot_start_is_told_with_its_own_last_words(tmp_path: Path, demos: list[Demo]):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "uvicorn.py").write_text("raise RuntimeError('no server today')")
    demo = Demo(tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    demos.append(demo)
    code, printed = demo.end(60)
    assert code == 1
    assert "stand in: nothing computes on them" in " ".join(printed.split())
    assert "Error: the server ended" in demo.said()
    assert "no server today" in demo.said()
    assert demo.left() == NOTHING


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ctrl_c_in_the_middle_of_the_flow_runs_leaves_nothing(tmp_path: Path, demos: list[Demo]):
    demo = Demo(tmp_path, "--json")
    demos.append(demo)
    until(lambda: demo.says("waiting for "), 300, what="a flow run that waits")
    assert len(demo.processes()) > 5
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(30) == (130, "")
    assert demo.left() == NOTHING


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_flow_run_that_fails_is_told_with_the_worker_s_last_words(tmp_path: Path, demos: list[Demo]):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(FAILING)
    demo = Demo(tmp_path, "--runs", "1", PYTHONPATH=str(tmp_path / "broken"))
    demos.append(demo)
    code, _ = demo.end(300)
    assert code == 1
    assert "the flow run 'astronaut' ended as Failed" in demo.said()
    assert "the film tore" in demo.said()
    assert demo.left() == NOTHING
    assert not demo.out.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_flow_runs_share_the_cards_within_every_limit_and_only_a_picture_and_a_table_stay(
    tmp_path: Path, demos: list[Demo]
):
    demo = Demo(tmp_path, "--runs", "3", "--json", CUDA_VISIBLE_DEVICES="")
    demos.append(demo)
    code, printed = demo.end(390)
    assert code == 0, demo.said()[-4000:]
    result = json.loads(printed)

    assert result["cards"] == "declared"
    names = {"astronaut", "coffee", "hubble_deep_field"}
    for act in ("at_once", "one_after_another"):
        assert {run["name"] for run in result[act]["runs"]} == names
        assert {run["state"] for run in result[act]["runs"]} == {"Completed"}
        spans = [Span(**span) for span in result[act]["spans"]]
        assert len(spans) == 2 * len(names), "a card's memory and a seat each"
        for cell, capacity in {("gpu_mem", 0): 24576, ("gpu_mem", 1): 24576, ("license.matlab", 0): 2}.items():
            own = [span for span in spans if (span.resource, span.number) == cell]
            assert all(high <= capacity for _, _, high in stacked(own, capacity))

    in_turn = sorted(
        (span["granted_at"], span["ended_at"])
        for span in result["one_after_another"]["spans"]
        if span["resource"] == "gpu_mem"
    )
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(in_turn)), "strictly one after another"
    assert result["seconds"]["at_once"] > 0
    assert result["seconds"]["one_after_another"] > 0

    peaks = {name: (use["peak"], use["slots"]) for name, use in result["limits"].items()}
    assert all(peak <= slots for peak, slots in peaks.values())
    assert peaks["license:matlab"][0] >= 1
    assert peaks["gpu-mem:demo"] in {(16384, 49152), (32768, 49152)}
    assert peaks["cpus:demo"] == (0, 4)

    assert sorted(path.name for path in demo.out.iterdir()) == ["table.txt", "timeline.png", "timeline.svg"]
    assert sorted(result["files"]) == sorted(str(path) for path in demo.out.iterdir())
    ET.parse(demo.out / "timeline.svg")
    with Image.open(demo.out / "timeline.png") as picture:
        picture.load()
    assert "license:matlab" in (demo.out / "table.txt").read_text()
    assert demo.left() == NOTHING
