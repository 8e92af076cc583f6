"""Building the C stub of `libnvidia-ml`, and running code over it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.nvml_stub.machines import Machine

SOURCE = Path(__file__).with_name("nvml_stub.c")


def build(folder: Path) -> Path:
    """Build the library of a present driver in `folder/new` and of an old one in `folder/old`; return `folder`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, so the stub of libnvidia-ml cannot be built")
    for age, extra in (("new", ()), ("old", ("-DOLD_DRIVER",))):
        library = folder / age / "libnvidia-ml.so.1"
        library.parent.mkdir()
        # The binding loads it by its name; without this name inside, a library loaded by path is not taken for it.
        named = "-Wl,-soname,libnvidia-ml.so.1"
        command = [
            compiler,
            "-shared",
            "-fPIC",
            "-pthread",
            "-Wall",
            "-Wextra",
            "-Werror",
            named,
            *extra,
            "-o",
            str(library),
        ]
        subprocess.run([*command, str(SOURCE)], check=True)
    return folder


def environment(folder: Path, machine: Machine) -> dict[str, str]:
    """Return the environment of a process whose NVML tells of `machine`."""
    age = "old" if machine.old else "new"
    return {**os.environ, "LD_LIBRARY_PATH": str(folder / age), "NVML_STUB": machine.text()}
