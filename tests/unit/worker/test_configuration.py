"""The configuration file of a running worker: followed when it changes, kept as it was while it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_slots.settings import load_settings
from prefect_slots.worker.configuration import Configuration

FILE = """[settings]
refresh_seconds = 30
max_overtakes = 20
[license.solver]
seats = 3
[[gpus.card]]
uuid = "GPU-a"
memory = "24GiB"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "prefect-slots.toml"
    made.write_text(FILE)
    return made


def test_each_difference_is_told_in_one_line_with_its_place(file: Path) -> None:
    configuration = Configuration(load_settings(file, env={}), {})
    assert configuration.reread() == []
    edited = FILE.replace("seats = 3", "seats = 2").replace("= 30", "= 5").replace("= 20", "= 0") + 'name = "A30"\n'
    file.write_text(edited + "[resources.plotter]\ncapacity = 1\n")
    assert configuration.reread() == [
        f"{file}:9: gpus.card.0.name: 'A30' is new",
        f"{file}:5: license.solver.seats: 3 is 2 now",
        f"{file}:11: resources.plotter.capacity: 1 is new",
        f"{file}:3: settings.max_overtakes: 20 is 0 now; it counts from the next start of this worker on",
        f"{file}:2: settings.refresh_seconds: 30 is 5 now",
    ]
    assert configuration.settings.refresh_seconds == 5
    assert configuration.settings.max_overtakes == 20
    assert [each.seats for each in configuration.settings.declarations.licenses] == [2]
    assert configuration.reread() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.replace("seats = 3", "seats = -1"), ":5: license.solver.seats: "),
        (FILE.replace("[license.solver]", "[license.solver"), ":4: not valid TOML"),
        (FILE.replace("seats", "seat"), ":5: license.solver.seat: unknown key"),
    ],
)
def test_a_wrong_edit_keeps_the_old_configuration_and_says_where(file: Path, text: str, words: str) -> None:
    configuration = Configuration(load_settings(file, env={}), {})
    before = configuration.settings
    file.write_text(text)
    for _ in range(2):
        assert configuration.reread() == []
        assert f"{file}{words}" in str(configuration.wrong)
        assert configuration.settings == before
    file.write_text(FILE.replace("seats = 3", "seats = 4"))
    assert configuration.reread() == [f"{file}:5: license.solver.seats: 3 is 4 now"]
    assert configuration.wrong is None


def test_a_file_that_is_gone_takes_nothing_away(file: Path) -> None:
    configuration = Configuration(load_settings(file, env={}), {})
    before = configuration.settings
    file.unlink()
    assert configuration.reread() == []
    assert "there is no file" in str(configuration.wrong)
    assert configuration.settings == before
    file.write_text(FILE)
    assert configuration.reread() == []
    assert configuration.wrong is None


def test_a_file_that_appears_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configuration = Configuration(load_settings(env={}), {})
    if configuration.settings.source != "defaults":
        pytest.skip("this machine has a file of its own")
    (tmp_path / "prefect-slots.toml").write_text("[license.solver]\nseats = 1\n")
    assert configuration.reread() == [f"{tmp_path / 'prefect-slots.toml'}:2: license.solver.seats: 1 is new"]
    assert configuration.settings.source == str(tmp_path / "prefect-slots.toml")
