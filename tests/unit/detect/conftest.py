"""The two ways to give the real binding a made-up machine."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from tests.unit.detect.nvml_scenario import Machine, NvmlDouble, Read

from prefect_slots.detect.nvml import NvmlReading, query_nvml

STUB = Path(__file__).parents[2] / "nvml_stub" / "nvml_stub.c"
CHILD = """
import pickle, sys
from prefect_slots.detect.nvml import query_nvml
sys.stdout.buffer.write(pickle.dumps(query_nvml()))
"""


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a `libnvidia-ml.so.1` built from the stub, for `LD_LIBRARY_PATH`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, so the stub of libnvidia-ml cannot be built")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(library), str(STUB)]
    subprocess.run(command, check=True)
    return library.parent


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
def read(request: pytest.FixtureRequest) -> Read:
    """Read a machine through the real binding: over the double, and over the C library in a process of its own."""
    if request.param == "double":
        install: Callable[[Machine], NvmlDouble] = request.getfixturevalue("double")

        def read_double(machine: Machine) -> NvmlReading:
            library = install(machine)
            reading = query_nvml()
            assert library.initialized == 0, "the library was left initialised"
            return reading

        return read_double

    folder: Path = request.getfixturevalue("nvml_library")

    def read_library(machine: Machine) -> NvmlReading:
        env = {**os.environ, "LD_LIBRARY_PATH": str(folder), "NVML_STUB": machine.text()}
        child = subprocess.run([sys.executable, "-c", CHILD], env=env, stdout=subprocess.PIPE, check=True)
        return pickle.loads(child.stdout)

    return read_library
