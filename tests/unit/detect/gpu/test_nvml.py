"""Importing NVIDIA's binding: the real one, an old one in its place, and a noisy one."""

from __future__ import annotations

import sys
from pathlib import Path

import pynvml
import pytest

from prefect_slots.detect.gpu import nvml
from prefect_slots.detect.gpu.nvml import error_code, load_nvml


def test_the_installed_binding_is_nvidias():
    assert load_nvml().nvmlMemory_v2 == pynvml.nvmlMemory_v2


def test_another_package_of_that_name_is_refused_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pynvml.py").write_text("def nvmlInit(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml")
    with pytest.raises(ImportError, match=r"another package named pynvml \(.*pynvml\.py\) hides NVIDIA's"):
        load_nvml()


def test_the_warning_of_the_retired_distribution_does_not_become_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = "import warnings\nwarnings.warn('retired', FutureWarning)\n_nvmlGetFunctionPointer = nvmlMemory_v2 = 7\n"
    (tmp_path / "pynvml.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml")
    assert load_nvml().nvmlMemory_v2 == 7


def test_codes_are_nvmls_own():
    names = [name for name in vars(nvml) if name.isupper() and hasattr(pynvml, f"NVML_ERROR_{name}")]
    assert len(names) == 10
    assert {name: getattr(nvml, name) for name in names} == {
        name: getattr(pynvml, f"NVML_ERROR_{name}") for name in names
    }
    assert nvml.PROHIBITED == pynvml.NVML_COMPUTEMODE_PROHIBITED
    assert nvml.EXCLUSIVE_PROCESS == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS


def test_the_code_of_an_error_is_told_and_other_errors_have_none():
    assert error_code(pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)) == nvml.GPU_IS_LOST
    assert error_code(pynvml.NVMLLibraryMismatchError("x")) is None
    assert error_code(ValueError("x")) is None
