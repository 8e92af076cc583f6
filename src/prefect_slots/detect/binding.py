"""NVIDIA's Python binding of NVML: the part that is used here, typed, and how it is imported."""
# The names are NVIDIA's, and so is what each call does.
# ruff: noqa: N802, N815, D102

from __future__ import annotations

import importlib
import warnings
from typing import Any, Final, Protocol, cast

NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
LIB_RM_VERSION_MISMATCH: Final = 18
ARGUMENT_VERSION_MISMATCH: Final = 25
GPU_NOT_FOUND: Final = 28

EXCLUSIVE_PROCESS: Final = 3
PROHIBITED: Final = 2


class Nvml(Protocol):
    """The module `pynvml` of the distribution `nvidia-ml-py`. Every call may raise; see `error_code`."""

    nvmlMemory_v2: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object: ...
    def nvmlDeviceGetUUID(self, handle: object, /) -> str | bytes: ...
    def nvmlDeviceGetName(self, handle: object, /) -> str | bytes: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object, /, version: int | None = None) -> Any: ...
    def nvmlDeviceGetComputeMode(self, handle: object, /) -> int: ...
    def nvmlDeviceGetMigMode(self, handle: object, /) -> list[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object, /) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int, /) -> object: ...


def load_nvml() -> Nvml:
    """Import the binding.

    Raises:
        ImportError: if it is missing, or another package of that name hides it.
    """
    with warnings.catch_warnings():
        # The retired distribution `pynvml` installs a hook that warns at this import; under `-W error` it would raise.
        warnings.simplefilter("ignore", FutureWarning)
        module = importlib.import_module("pynvml")
    if not hasattr(module, "_nvmlGetFunctionPointer"):
        raise ImportError(
            f"another package named pynvml ({module.__file__}) hides NVIDIA's: uninstall pynvml, reinstall nvidia-ml-py"
        )
    return cast("Nvml", module)


def error_code(error: Exception) -> int | None:
    """Return NVML's code of an error, `None` for other errors.

    The binding's `NVMLLibraryMismatchError` is one of the others: it is no `NVMLError`, so catching that is not enough.
    """
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else None
