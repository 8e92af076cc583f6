"""`worker start --enforce` reaches the worker and its flow runs; without it the setting stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cyclopts import App

from prefect_slots import worker
from prefect_slots.acquire.coordination import Coordination
from prefect_slots.acquire.request import Place
from prefect_slots.cli import working
from prefect_slots.settings import Settings
from prefect_slots.worker import worker_env


@pytest.mark.parametrize(
    ("typed", "written", "meant"),
    [
        ([], "warn", "warn"),
        ([], "kill", "kill"),
        (["--enforce", "kill"], "warn", "kill"),
        (["--enforce=warn"], "kill", "warn"),
    ],
)
def test_the_flag_wins_over_the_file_and_is_no_flag_of_prefects(
    typed: list[str], written: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[tuple[tuple[str, ...], str]] = []

    def start(flags: Sequence[str], settings: Settings) -> int:
        started.append((tuple(flags), settings.enforce))
        return 7

    monkeypatch.setattr(worker, "start", start)
    (tmp_path / "prefect-slots.toml").write_text(f'[settings]\nenforce = "{written}"\n')
    monkeypatch.chdir(tmp_path)
    app = App(result_action="return_value")
    app.default(working.start)
    assert app(["--pool", "p", *typed, "--limit", "5"]) == 7
    assert started == [(("--pool", "p", "--limit", "5"), meant)]


def test_flow_runs_of_a_worker_mean_the_same(tmp_path: Path):
    place = Place(tmp_path, Coordination("both", "http://server/api"), Settings(enforce="kill"))
    assert worker_env("gpu-1", place)["PREFECT_SLOTS_ENFORCE"] == "kill"
