"""Ledgers of one host that offer the same GPUs find each other, and no stranger's file misleads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.neighbors import announce, meeting_place, neighbors
from prefect_slots.ledger.owner import Owner

CONFIG = """
[settings]
coordination = "local"
meeting_dir = "{place}"
MORE
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-{number}"
memory = "24GiB"
[host]
cpus = 1
mem = "1GiB"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    return place


@contextmanager
def in_use(folder: Path) -> Generator[Path]:
    """A state folder that a process uses, since longer than a moment ago."""
    owner = Owner.start(open_folder(folder))
    os.utime(folder / "owners" / owner.lock_file, (1, 1))
    try:
        yield folder
    finally:
        owner.end(folder)


def test_a_ledger_in_use_is_found_by_its_gpus_and_not_by_itself(tmp_path: Path, place: Path) -> None:
    # C03
    with in_use(tmp_path / "one") as one:
        announce(place, "one", one, {"GPU-1", "GPU-2"})
        announce(place, "two", tmp_path / "two", {"GPU-2", "GPU-3"})
        [found] = neighbors(place, "two", {"GPU-2", "GPU-3"})
        assert (found.ledger, found.folder, found.gpus) == ("one", str(one), ("GPU-2",))
        assert neighbors(place, "one", {"GPU-1", "GPU-2"}) == ()
        assert neighbors(place, "two", {"GPU-3"}) == ()
        announce(place, "one", one, {"GPU-1"})
        assert neighbors(place, "two", {"GPU-2"}) == ()
    announce(place, "one", one, {"GPU-2"})
    assert neighbors(place, "two", {"GPU-2"}) == (), "no process uses that ledger"


def test_files_of_strangers_are_no_notes(tmp_path: Path, place: Path) -> None:
    with in_use(tmp_path / "one") as one:
        note = {"ledger": "one", "folder": str(one), "gpus": ["GPU-1"]}
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text(json.dumps(note))
        (place / "prefect-slots-note-link").symlink_to(elsewhere)
        os.mkfifo(place / "prefect-slots-note-pipe")
        (place / "prefect-slots-note-folder").mkdir()
        (place / "prefect-slots-note-long").write_text(json.dumps(note) + " " * 70_000)
        texts = ["", "[]", "3", "{}", "[" * 30_000, '{"ledger": 1, "folder": "/", "gpus": ["GPU-1"]}']
        texts += [json.dumps(note | each) for each in ({"gpus": "GPU-1"}, {"gpus": [1]}, {"folder": "/a\0b"})]
        for number, text in enumerate(texts):
            (place / f"prefect-slots-note-{number}").write_bytes(text.encode() + b"\xff" * (number % 2))
        assert neighbors(place, "two", {"GPU-1"}) == ()
        (place / "prefect-slots-note-good").write_text(json.dumps(note | {"ledger": "\x1b[31mone"}))
        assert neighbors(place, "two", {"GPU-1"})[0].ledger == "\\x1b[31mone"


def test_a_note_overwrites_no_file_behind_a_link(tmp_path: Path, place: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (place / f"prefect-slots-note-one-{os.getuid()}").symlink_to(victim)
    (place / f".prefect-slots-note-one-{os.getuid()}.{os.getpid()}").symlink_to(victim)
    announce(place, "one", tmp_path, {"GPU-1"})
    assert victim.read_text() == "precious"


def test_the_place_is_a_sticky_folder_of_root_that_all_may_write(tmp_path: Path) -> None:
    private, link = tmp_path / "private", tmp_path / "link"
    private.mkdir(mode=0o755)
    link.symlink_to("/var/tmp")
    assert meeting_place([private, link, tmp_path / "none"]) is None
    if os.getuid() == 0:
        open_to_all = tmp_path / "open"
        open_to_all.mkdir()
        open_to_all.chmod(0o1777)
        assert meeting_place([private, open_to_all]) == open_to_all
        os.chown(open_to_all, 4244, 4242)
        assert meeting_place([open_to_all]) is None, "its owner may remove everybody's files"


HOLD = "echo holding; read line"


def test_two_ledgers_of_one_gpu_warn_and_an_exclusive_one_refuses(tmp_path: Path, place: Path) -> None:
    # C03, without a server
    def start(name: str, gpu: int, more: str = "", script: str = HOLD) -> subprocess.Popen[str]:
        config = tmp_path / f"{name}.toml"
        config.write_text(CONFIG.replace("{place}", str(place)).replace("{number}", str(gpu)).replace("MORE", more))
        env = {**os.environ, "PREFECT_SLOTS_STATE_DIR": str(tmp_path / name), "PREFECT_SLOTS_CONFIG": str(config)}
        command = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", "1", "--", "sh", "-c", script]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, text=True, stdin=pipe, stdout=pipe, stderr=pipe)

    with start("one", 1) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "holding\n"
        os.utime(next((tmp_path / "one/owners").iterdir()), (1, 1))
        start("two", 1, script="true").communicate(timeout=60)
        # Registered already, it finds the other one at its first request.
        _, error = start("two", 1, script="true").communicate(timeout=60)
        assert "GPU-1 is offered by another ledger of this host too" in error
        assert str(tmp_path / "one") in error
        exclusive = start("two", 1, "exclusive = true", script="true")
        _, error = exclusive.communicate(timeout=60)
        assert (exclusive.returncode, "Let both share one ledger" in error) == (125, True)
        parted = start("three", 1, 'partition = "b"', script="true")
        _, error = parted.communicate(timeout=60)
        assert (parted.returncode, "`partition` forbids that" in error) == (125, True)
        disjoint = start("three", 2, 'partition = "b"', script="true")
        assert disjoint.communicate(timeout=60)[1] == ""
        assert disjoint.returncode == 0
        one.communicate("\n", timeout=60)
