"""Settings that were checked before are found again, and only they: by whoever says the very same."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.errors import ConfigError
from prefect_slots.settings import Settings, kept, load_settings
from prefect_slots.settings.checking import check
from prefect_slots.settings.schema import SettingVariables

LOAD = """\
import sys
from prefect_slots.settings import load_settings
print(load_settings(), 'pydantic' in sys.modules)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def files(home: Path) -> list[Path]:
    return sorted((home / ".cache" / "prefect-slots").iterdir())


def test_what_was_checked_before_is_not_checked_again(home: Path):
    env = {**os.environ, "XDG_CACHE_HOME": "", "HOME": str(home), "PREFECT_SLOTS_MAX_OVERTAKES": "7"}

    def load(**more: str) -> tuple[str, bool]:
        command = [sys.executable, "-c", LOAD]
        out = subprocess.run(command, env={**env, **more}, cwd=home, check=True, capture_output=True, text=True).stdout
        said, checked = out.strip().rsplit(" ", 1)
        return said, checked == "True"

    first, checked = load()
    assert checked
    assert "max_overtakes=7" in first
    assert load() == (first, False)
    assert load(PREFECT_SLOTS_GRANT="whatever a command is started with") == (first, False)
    (home / "prefect-slots.toml").write_text("[license.matlab]\nseats = 2\n")
    second, checked = load()
    assert checked
    assert "matlab" in second
    assert load() == (second, False)
    assert load(WORKER_ID="other")[1]
    assert load(HOME="/nonexistent")[1]


@given(overtakes=st.integers(0, 9), worker=st.sampled_from(["", "one", "two"]), seats=st.integers(1, 5))
def test_what_is_kept_is_what_the_check_says(
    tmp_path_factory: pytest.TempPathFactory, overtakes: int, worker: str, seats: int
):
    place = tmp_path_factory.getbasetemp() / "kept"
    place.mkdir(exist_ok=True)
    config = place / "prefect-slots.toml"
    config.write_text(f"[license.matlab]\nseats = {seats}\n")
    env = {"XDG_CACHE_HOME": str(place), "PREFECT_SLOTS_MAX_OVERTAKES": str(overtakes), "WORKER_ID": worker}
    expected = check(config, config.read_bytes(), env)
    assert [load_settings(config, env=env), load_settings(config, env=env)] == [expected, expected]
    assert (expected.max_overtakes, expected.worker) == (overtakes, worker or None)


def test_a_mistake_is_told_each_time(home: Path):
    env = {"HOME": str(home), "PREFECT_SLOTS_MAX_OVERTAKES": "many"}
    for _ in range(2):
        with pytest.raises(ConfigError, match="PREFECT_SLOTS_MAX_OVERTAKES"):
            load_settings(env=env, cwd=home)
    assert not (home / ".cache").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x05torn", pickle.dumps(Settings(max_overtakes=99))])
def test_a_file_that_is_not_what_was_kept_is_not_believed(home: Path, content: bytes):
    env = {"HOME": str(home)}
    expected = load_settings(env=env, cwd=home)
    (file,) = files(home)
    good = file.read_bytes()
    file.write_bytes(content)
    assert load_settings(env=env, cwd=home) == expected
    assert file.read_bytes() == good


def test_a_file_that_others_may_write_is_not_believed(home: Path):
    env = {"HOME": str(home)}
    expected = load_settings(env=env, cwd=home)
    (file,) = files(home)
    assert file.stat().st_mode & 0o777 == 0o600
    said = kept.said(None, b"", env)
    file.write_bytes(pickle.dumps((said, Settings(max_overtakes=99))))
    assert load_settings(env=env, cwd=home).max_overtakes == 99
    file.chmod(0o666)
    assert load_settings(env=env, cwd=home) == expected


def test_a_folder_that_others_may_write_in_is_left_alone(home: Path):
    env = {"HOME": str(home)}
    expected = load_settings(env=env, cwd=home)
    (file,) = files(home)
    said = kept.said(None, b"", env)
    file.write_bytes(pickle.dumps((said, Settings(max_overtakes=99))))
    file.parent.chmod(0o777)
    theirs = home / "theirs"
    theirs.write_text("precious")
    file.with_name(f"{file.name}.{threading.get_native_id()}").symlink_to(theirs)
    assert load_settings(env=env, cwd=home) == expected
    assert theirs.read_text() == "precious"


UPGRADED = """\
import sys
from pathlib import Path
from prefect_slots.settings import kept
then = kept.said(None, b"", {})
Path(kept.__file__).with_name("file.py").write_text("raise SystemExit('upgraded')")
print(kept.said(None, b"", {}) == then, "file.py" in then.decode(), ".#" in then.decode())
"""


def test_what_a_process_says_is_of_the_code_that_it_runs(tmp_path: Path):
    package = tmp_path / "prefect_slots"
    shutil.copytree(Path(kept.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    # As an editor leaves it beside a file that is being written.
    (package / "settings" / ".#file.py").symlink_to("somebody@somewhere")
    command = [sys.executable, "-c", UPGRADED]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    out = subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert out.split() == ["True", "True", "False"]


def test_however_many_differ_few_are_kept(home: Path):
    for number in range(40):
        load_settings(env={"HOME": str(home), "WORKER_ID": f"worker-{number}"}, cwd=home)
    assert 8 < len(files(home)) <= kept.FILES


@pytest.mark.parametrize("base", ["", "relative", "/nonexistent/home", "/proc/self/fd"])
def test_where_there_is_no_place_nothing_is_kept(base: str, home: Path):
    env = {"HOME": base}
    assert load_settings(env=env, cwd=home) == load_settings(env=env, cwd=home) == Settings()
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_nothing_is_made_in_a_home_that_is_somebody_elses(home: Path):
    os.chown(home, 65534, 65534)
    assert load_settings(env={"HOME": str(home)}, cwd=home) == Settings()
    assert list(home.iterdir()) == []


def test_plain_settings_and_checked_ones_have_the_same_defaults():
    plain = dataclasses.asdict(Settings())
    del plain["source"], plain["declarations"]
    assert SettingVariables().model_dump() == plain
