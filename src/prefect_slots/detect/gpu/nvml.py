"""NVIDIA's Python binding of NVML: the part that is used here, typed, and how it is imported."""
# The names are NVIDIA's; its manual documents each call.
# ruff: noqa: N802, N815, D102

import importlib
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from prefect_slots.model import UNPRINTABLE

T = TypeVar("T")

NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
LIB_RM_VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28

# The name of every look through NVIDIA's driver: while one hangs, none of the others is waited for either.
NVIDIA = "NVIDIA's cards"

EXCLUSIVE_PROCESS = 3
PROHIBITED = 2

# In a virtual machine with a part of a GPU, and on the host that gives such parts away.
VIRTUAL = frozenset({2, 3, 4})

NO_NVIDIA_HERE = frozenset({DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, GPU_NOT_FOUND})
_NO_SUCH_FEATURE = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})

_REMEDIES = {
    NO_PERMISSION: "give this user access to /dev/nvidia* (often: the group 'video' or 'render')",
    GPU_IS_LOST: "the card has fallen off the bus: reboot, and check its power and seating",
    LIB_RM_VERSION_MISMATCH: "the driver was upgraded while loaded: reboot",
}


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
    def nvmlDeviceGetCudaComputeCapability(self, handle: object, /) -> list[int]: ...
    def nvmlDeviceGetComputeMode(self, handle: object, /) -> int: ...
    def nvmlDeviceGetMigMode(self, handle: object, /) -> list[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object, /) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int, /) -> object: ...
    def nvmlDeviceGetGpuInstanceId(self, handle: object, /) -> int: ...
    def nvmlDeviceGetComputeInstanceId(self, handle: object, /) -> int: ...
    def nvmlDeviceGetVirtualizationMode(self, handle: object, /) -> int: ...
    def nvmlDeviceGetEncoderStats(self, handle: object, /) -> tuple[int, int, int]: ...
    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: object, /) -> list[Any]: ...
    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle: object, /) -> list[Any]: ...
    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: object, /) -> list[Any]: ...
    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, handle: object, /) -> list[Any]: ...
    def nvmlDeviceGetMPSComputeRunningProcesses_v3(self, handle: object, /) -> list[Any]: ...
    def nvmlDeviceGetMPSComputeRunningProcesses_v2(self, handle: object, /) -> list[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of a call; `code` is NVML's, `None` if the error is not NVML's."""

    code: int | None
    words: str

    @property
    def remedy(self) -> str:
        """The remedy, for people."""
        return _REMEDIES.get(self.code or 0, "see `nvidia-smi` and the kernel log")


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


@contextmanager
def opened(load: Callable[[], Nvml]) -> Generator[Nvml]:
    """Load the binding and start NVML, until the end of the `with` block.

    Raises:
        Exception: any error of the import or of NVML's start.
    """
    nvml = load()
    nvml.nvmlInit()
    try:
        yield nvml
    finally:
        # An error of the end must not hide the reading, or the error that ended it.
        with suppress(Exception):
            nvml.nvmlShutdown()


def error_code(error: Exception) -> int | None:
    """Return NVML's code of an error, `None` for other errors.

    The binding's `NVMLLibraryMismatchError` is one of the others: it is no `NVMLError`, so catching that is not enough.
    """
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else None


def failure_of(error: Exception) -> Failure:
    """Return an error as data."""
    return Failure(code=error_code(error), words=str(error) or type(error).__name__)


def text_of(value: str | bytes) -> str:
    """Return the text of a string that older bindings give as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def read_uuid(nvml: Nvml, handle: object) -> str:
    """Return a device's UUID.

    Raises:
        ValueError: if it is empty or no text, so that it names nothing.
        Exception: any error of NVML.
    """
    uuid = text_of(nvml.nvmlDeviceGetUUID(handle)).strip()
    if not uuid or UNPRINTABLE.search(uuid):
        raise ValueError(f"its UUID is {uuid!a}")
    return uuid


def lacks(error: Exception) -> bool:
    """Return true if an error means "this GPU or driver has no such feature"."""
    return error_code(error) in _NO_SUCH_FEATURE


def ask(call: Callable[[object], T], handle: object, *, otherwise: T) -> T:
    """Call, taking "this GPU or driver has no such feature" for `otherwise`."""
    try:
        return call(handle)
    except Exception as error:
        if not lacks(error):
            raise
        return otherwise


def read_beside(call: Callable[[object], T], handle: object, *, otherwise: T) -> T:
    """Call for a value without which a GPU can be used: any error but that the GPU is lost gives `otherwise`."""
    try:
        return call(handle)
    except Exception as error:
        if error_code(error) == GPU_IS_LOST:
            raise
        return otherwise


def read_mig_mode(nvml: Nvml, gpu: object) -> tuple[int, int]:
    """Return MIG mode now and after the next reset; if it cannot be read, any instance tells that it is on."""
    try:
        now, after_reset = ask(nvml.nvmlDeviceGetMigMode, gpu, otherwise=[0, 0])
    except Exception as error:
        if error_code(error) == GPU_IS_LOST:
            raise
        now = after_reset = int(_has_instance(nvml, gpu))
    return now, after_reset


def _has_instance(nvml: Nvml, gpu: object) -> bool:
    with suppress(Exception):
        for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            with suppress(Exception):
                nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
                return True
    return False


def read_memory(nvml: Nvml, handle: object) -> tuple[int, int | None, int] | None:
    """Return a device's total, reserved and used bytes; `None` where it has no memory and shares the host's.

    Drivers before R510 do not tell what they reserve, `None`; their `used` holds it too.
    """
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        memory = int(info.total), int(info.reserved), int(info.used)
    except Exception as error:
        if not lacks(error) and error_code(error) != ARGUMENT_VERSION_MISMATCH:
            raise
        info = ask(nvml.nvmlDeviceGetMemoryInfo, handle, otherwise=None)
        memory = (int(info.total), None, int(info.used)) if info is not None else None
    return memory if memory is not None and memory[0] > 0 else None
