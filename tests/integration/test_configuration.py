"""The configuration of a machine: a wrong line, another folder, another name; real commands, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.boxes import Box, line, tell
from tests.support.polling import until

FILE = """
[gpus]
detect = false
[host]
cpus = 2
mem = "1GiB"
[license.solver]
seats = 3
scope = "worker"
[resources.scanner]
capacity = 1
"""
HOLDER = """
    import sys
    from prefect_slots import requires
    with requires(cpus=1):
        print('"held"', flush=True)
        sys.stdin.readline()
"""


class Folders:
    """One machine, and folders to run commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | {
            "PREFECT_SLOTS_STATE_DIR": str(self.state),
            "PREFECT_SLOTS_COORDINATION": "local",
        }

    def at(self, name: str, text: str | None = None) -> Path:
        """Make a folder with a configuration file, or without one."""
        made = self.folder / name
        made.mkdir(exist_ok=True)
        if text is not None:
            (made / "prefect-slots.toml").write_text(text)
        return made

    def run(self, cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect_slots", *words]
        return subprocess.run(
            command, env=self.env | env, cwd=cwd, capture_output=True, text=True, timeout=90, check=False
        )

    def offered(self) -> dict[str, int]:
        """Return what the machine offers of each resource."""
        shown = json.loads(self.run(self.folder, "status", "--json").stdout)
        return {cell["resource"]: cell["capacity"] for cell in shown["cells"]}

    def name(self) -> str:
        return json.loads(self.run(self.folder, "status", "--json").stdout)["machine"]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.mark.parametrize(
    "other", [None, pytest.param('[gpus]\ndetect = false\n[host]\ncpus = 2\nmem = "1GiB"\n', marks=pytest.mark.slow)]
)
def test_a_registration_in_another_folder_takes_away_nothing_unless_told(folders: Folders, other: str | None) -> None:
    first, second = folders.at("first", FILE), folders.at("second", other)
    assert folders.run(first, "register").returncode == 0
    refused = folders.run(second, "register")
    assert refused.returncode == 1
    assert str(first / "prefect-slots.toml") in refused.stderr
    assert "scanner" in refused.stderr
    assert "--yes" in refused.stderr
    assert folders.offered()["license.solver"] == 3
    shown = folders.run(second, "register", "--dry-run")
    assert shown.returncode == 0
    assert "scanner" in shown.stdout
    assert folders.offered()["scanner"] == 1
    assert folders.run(second, "register", "--yes").returncode == 0
    assert "scanner" not in folders.offered()
    named = str(first / "prefect-slots.toml")
    assert folders.run(second, "register", "--config", named).returncode == 0
    assert folders.offered()["scanner"] == 1


def test_a_file_that_only_adds_or_is_edited_in_its_place_is_no_question(folders: Folders) -> None:
    first = folders.at("first", FILE)
    assert folders.run(first, "register").returncode == 0
    folders.at("first", FILE.replace("seats = 3", "seats = 2"))
    assert folders.run(first, "register").returncode == 0
    assert folders.offered()["license.solver"] == 2
    more = folders.at("more", FILE.replace("seats = 3", "seats = 2") + "[resources.plotter]\ncapacity = 1\n")
    assert folders.run(more, "register").returncode == 0
    assert folders.offered()["plotter"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "[settings]\nrefresh_seconds = 0\n",
        pytest.param("[license.solver\n", marks=pytest.mark.slow),
        pytest.param("[gpus]\ncards = 1\n", marks=pytest.mark.slow),
    ],
)
def test_one_wrong_line_fails_only_the_commands_that_need_it(folders: Folders, wrong: str) -> None:
    """The state folder is the file's own, which must still be found."""
    del folders.env["PREFECT_SLOTS_STATE_DIR"]
    del folders.env["PREFECT_SLOTS_COORDINATION"]
    head = f'[settings]\nstate_dir = "{folders.state}"\ncoordination = "local"\n'
    here = folders.at("here", head + FILE)
    assert folders.run(here, "register").returncode == 0
    broken = head + wrong.removeprefix("[settings]\n") + FILE.replace("[gpus]\n", "[gpus]\n", 1)
    if wrong.startswith("[gpus]"):
        broken = head + FILE.replace("[gpus]\n", wrong)
    folders.at("here", broken)
    number = next(n for n, text in enumerate(broken.split("\n"), 1) if text == wrong.strip().split("\n")[-1])
    for words in (["register"], ["detect"], ["run", "--cpus", "1", "--", "true"]):
        failed = folders.run(here, *words)
        assert failed.returncode in (1, 125)
        assert f"{here / 'prefect-slots.toml'}:{number}" in failed.stderr, failed.stderr
    shown = folders.run(here, "status", "--json")
    assert shown.returncode == 0, shown.stderr
    assert f"prefect-slots.toml:{number}" in shown.stderr
    assert {cell["resource"] for cell in json.loads(shown.stdout)["cells"]} >= {"scanner", "cpus"}
    report = json.loads(folders.run(here, "doctor", "--json").stdout)
    told = {each["about"]: each["found"] for each in report["findings"]}
    assert f"prefect-slots.toml:{number}" in told["settings"]
    assert "state folder" in told
    assert "ledger" in told


def test_giving_back_works_on_with_a_wrong_line(tmp_path: Path) -> None:
    box = Box(tmp_path, None)
    box.register()
    holder, killed = (box.start(HOLDER) for _ in range(2))
    assert line(holder) == line(killed) == "held"
    box.config.write_text("[settings\n")
    killed.kill()
    killed.communicate()
    tell(holder)
    holder.communicate(timeout=30)
    assert holder.returncode == 0
    folders = Folders(tmp_path)
    folders.env |= box.env
    assert folders.run(tmp_path, "doctor", "--fix").returncode == 1
    until(lambda: not box.in_use(), 20, what="an empty ledger")


def test_a_first_use_without_a_server_fixes_no_name(folders: Folders) -> None:
    here = folders.at("here", FILE)
    assert folders.run(here, "run", "--cpus", "1", "--", "true").returncode == 0
    assert folders.run(here, "register", "--name", "chosen").returncode == 0
    assert folders.name() == "chosen"


@pytest.mark.parametrize(
    "way",
    ["file", *(pytest.param(way, marks=pytest.mark.slow) for way in ("option", "variable", "worker id"))],
)
def test_another_name_is_an_error_or_a_rename_and_never_ignored(folders: Folders, way: str) -> None:
    here = folders.at("here", FILE)
    assert folders.run(here, "register", "--name", "one").returncode == 0
    words: list[str] = []
    env: dict[str, str] = {}
    if way == "option":
        words = ["--name", "two"]
    elif way == "file":
        folders.at("here", FILE + '[settings]\nworker = "two"\n')
    else:
        env = {{"variable": "PREFECT_SLOTS_WORKER", "worker id": "WORKER_ID"}[way]: "two"}
    refused = folders.run(here, "register", *words, **env)
    assert refused.returncode == 1
    assert "registered as 'one'" in refused.stderr
    assert "--rename" in refused.stderr
    assert folders.name() == "one"
    assert folders.run(here, "register", "--rename", *words, **env).returncode == 0
    assert folders.name() == "two"


def test_a_machine_that_is_held_is_not_renamed(tmp_path: Path) -> None:
    box = Box(tmp_path, None)
    box.register()
    holder = box.start(HOLDER)
    assert line(holder) == "held"
    folders = Folders(tmp_path)
    folders.env |= box.env
    refused = folders.run(tmp_path, "register", "--rename", "--name", "two")
    assert refused.returncode == 1
    assert "cannot be renamed now" in refused.stderr
    assert folders.name() == box.name
    holder.communicate("\n", timeout=30)
