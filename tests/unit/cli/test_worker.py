"""`worker start --enforce` reaches the worker and its flow runs; without it the setting stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cyclopts import App
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_slots.acquire.engine import close_engine
from prefect_slots.cli import worker
from prefect_slots.settings import Settings
from prefect_slots.worker import start as worker_start
from prefect_slots.worker.refresh import Refresher


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

    monkeypatch.setattr(worker_start, "start", start)
    (tmp_path / "prefect-slots.toml").write_text(f'[settings]\nenforce = "{written}"\n')
    monkeypatch.chdir(tmp_path)
    app = App(result_action="return_value")
    app.default(worker.start)
    assert app(["--pool", "p", *typed, "--limit", "5"]) == 7
    assert started == [(("--pool", "p", "--limit", "5"), meant)]


def test_flow_runs_of_a_worker_mean_the_same(tmp_path: Path):
    settings = Settings(enforce="kill", coordination="both", state_dir=tmp_path)
    with temporary_settings({PREFECT_API_URL: "http://server/api"}):
        refresher = Refresher(settings, None, lambda _, __: None)
    assert refresher.env("gpu-1")["PREFECT_SLOTS_ENFORCE"] == "kill"
    close_engine()
