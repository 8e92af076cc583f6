"""The example flows, each run for real as a reader of them would: as a script, on a machine without a server."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prefect_slots.ledger import queries
from prefect_slots.ledger.store import Ledger
from prefect_slots.observe.timeline import run_of
from prefect_slots.scheduling.decide import decide

ROOT = Path(__file__).parents[2]


def test_every_example_flow_is_run_here():
    assert [path.name for path in (ROOT / "flows").glob("*.py")] == ["image_pipeline.py"]


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The image pipeline run as a script in a folder of its own, on the example machine."""
    (tmp_path / "home").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")} | {
        "HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SLOTS_CONFIG": str(ROOT / "configs" / "demo.toml"),
        "PREFECT_SLOTS_STATE_DIR": str(tmp_path / "state"),
    }
    ended = subprocess.run(
        [sys.executable, str(ROOT / "flows" / "image_pipeline.py")],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "coffee.png: " in ended.stderr
    return tmp_path


@pytest.mark.slow
def test_the_image_pipeline_holds_a_card_and_a_seat_while_it_analyses_and_saves_a_picture(ran: Path):
    ledger = Ledger(ran / "state", partial(decide, max_overtakes=0))
    try:
        spans = ledger.read(queries.history)
    finally:
        ledger.close()
    held = {(span.resource, span.number): span.amount for span in spans}
    assert held == {("gpu_mem", 0): 16 * 1024, ("license.matlab", 0): 1}
    assert len(spans) == 2
    card, seat = spans
    assert (card.granted_at, card.ended_at) == (seat.granted_at, seat.ended_at), "taken and given back together"
    assert card.label.startswith("analyse-")
    assert "(image_pipeline.py:" in card.label
    assert run_of(card.label) not in ("", card.label), "the flow run's name"

    with Image.open(ran / "pictures" / "coffee.png") as picture:
        outlined = np.asarray(picture)
    assert outlined.shape == (427, 640, 3)
    assert (outlined == (255, 255, 0)).all(axis=-1).sum() > 1000, "regions are outlined in yellow"
