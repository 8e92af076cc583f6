"""The demo's scene: real photographs, the example's own files, and a request that two flow runs can have at once."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.machines import GIB, FakeDevice, Machine

from prefect_slots.demo.scene import PHOTOS, affordable, photo_names, read_part, set_scene
from prefect_slots.settings import load_settings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_photograph_ships_inside_scikit_image_and_is_large_enough_to_look_at(photo: str):
    with (files("skimage") / "data" / photo).open("rb") as file:
        assert min(Image.open(file).size) >= 300


def test_every_flow_run_has_a_name_of_its_own():
    named = photo_names(2 * len(PHOTOS) + 1)
    assert len(named) == 2 * len(PHOTOS) + 1
    assert set(named.values()) == set(PHOTOS)
    assert named["astronaut"] == named["astronaut-2"] == named["astronaut-3"] == "astronaut.png"


@pytest.mark.parametrize("path", ["configs/demo.toml", "flows/image_pipeline.py"])
def test_what_is_played_is_the_example_itself(path: str):
    assert read_part(path) == (ROOT / path).read_text()


@given(st.lists(st.integers(2048, 200_000), min_size=1, max_size=8))
def test_two_flow_runs_fit_and_would_not_with_more(sizes: list[int]):
    gib = affordable(sizes)
    assert 1 <= gib <= 16
    assert sum(size // (gib * 1024) for size in sizes) >= 2
    assert gib == 16 or sum(size // ((gib + 1) * 1024) for size in sizes) < 2


def test_without_cards_the_two_declared_ones_stand_in_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    # Hides whatever cards this machine has from the survey, as it would from a task.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    scene = set_scene()
    assert scene.declared
    assert scene.config == (ROOT / "configs/demo.toml").read_text()
    assert scene.flow == (ROOT / "flows/image_pipeline.py").read_text()
    assert "No NVIDIA GPU was found" in scene.remarks[0]
    assert "configs/demo.toml" in scene.remarks[0]


def real_cards(monkeypatch: pytest.MonkeyPatch, *gib: int) -> None:
    cards = tuple(FakeDevice(uuid=f"GPU-{place:08}", total=size * GIB) for place, size in enumerate(gib))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlLib", NvmlDouble(Machine(cards=cards)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def test_real_cards_are_detected_and_none_is_declared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    real_cards(monkeypatch, 24, 24)
    scene = set_scene()
    (tmp_path / "demo.toml").write_text(scene.config)
    declarations = load_settings(tmp_path / "demo.toml", env={}).declarations
    assert not scene.declared
    assert declarations.gpus.detect
    assert declarations.gpus.cards == ()
    assert [(found.feature, found.seats) for found in declarations.licenses] == [("matlab", 2)]
    assert scene.flow == (ROOT / "flows/image_pipeline.py").read_text(), "16 GiB fit on each of them"


def test_where_a_real_card_is_small_the_flow_asks_for_less_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    real_cards(monkeypatch, 12)
    scene = set_scene()
    assert "@requires(gpu_mem=5, license=" in scene.flow
    assert "gpu_mem=16" not in scene.flow
    assert "asks for 5 GiB and not for 16" in scene.remarks[1]
