"""The two ways to give the real binding a made-up machine."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import Machine, Observe, Observed, Read

from prefect_slots.detect.gpu.nvidia import query_nvml
from prefect_slots.detect.gpu.usage import query_use

CHILD = """
import pickle, sys
from prefect_slots.detect.gpu.nvidia import query_nvml
from prefect_slots.detect.gpu.usage import query_use
sys.stdout.buffer.write(pickle.dumps((query_nvml(), query_use())))
"""


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stub libraries; see `environment`."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], NvmlDouble]:
    """Put a double in the place of the library that `pynvml` loads."""

    def install(machine: Machine) -> NvmlDouble:
        library = NvmlDouble(machine)
        monkeypatch.setattr(pynvml, "nvmlLib", library)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return library

    return install


@pytest.fixture(params=["double", "library"])
def observe(request: pytest.FixtureRequest) -> Observe:
    """Read a machine through the real binding: over the double, and over the C library in a process of its own."""
    if request.param == "double":
        install: Callable[[Machine], NvmlDouble] = request.getfixturevalue("double")

        def over_double(machine: Machine) -> Observed:
            library = install(machine)
            observed = Observed(query_nvml(), query_use())
            assert library.initialized == 0, "the library was left initialised"
            return observed

        return over_double

    folder: Path = request.getfixturevalue("nvml_library")

    def over_library(machine: Machine) -> Observed:
        env = environment(folder, machine)
        child = subprocess.run([sys.executable, "-c", CHILD], env=env, stdout=subprocess.PIPE, check=True)
        return Observed(*pickle.loads(child.stdout))

    return over_library


@pytest.fixture
def read(observe: Observe) -> Read:
    """Read a machine's cards, both ways."""
    return lambda machine: observe(machine).cards
