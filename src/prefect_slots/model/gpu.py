"""The vendor of a GPU: the variables that pin a process to it, and the name that frameworks give it.

A cell's key tells the vendor. `GPU-<uuid>` and `MIG-<uuid>` are NVIDIA's own names, `GPU-<16 hex digits>` are AMD's;
the other keys are made here for the detectors. No other module reads a vendor from a key.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

APPLE_KEY = "APPLE-GPU"


@dataclass(frozen=True)
class Gpu:
    """A GPU as a runtime can be told of it.

    Attributes:
        key: Its identity.
        number: Its place among all GPUs of its vendor in the order of the runtime, which may change at a boot; `None`
            for a declared GPU.
    """

    key: str
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The rules of one vendor's runtime.

    Attributes:
        name: The vendor's name, for people.
        keys: Pattern of the keys of its GPUs.
        framework: PyTorch's name of a device, with `{}` for its number; empty if there is none.
        variable: Variable that lists the GPUs of a process; empty if the runtime has none.
        named: Pattern of the keys that `variable` may hold; other GPUs are listed by number.
        ascending: The runtime shows the listed GPUs in ascending order of their numbers, however they are listed.
        lists: Variables that leave a process some of the GPUs, in the order in which they apply, each counting what the
            one before leaves; of several the first that is set counts.
        beside: Variables that are set together with the list; without them the runtime orders several GPUs as it likes.
        dropped: Variables that are removed together with it.
    """

    name: str
    keys: re.Pattern[str]
    framework: str
    variable: str = ""
    named: re.Pattern[str] = re.compile(r"(?!)")
    ascending: bool = False
    lists: tuple[tuple[str, ...], ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: tuple[str, ...] = ()

    def listing(self, gpus: Collection[Gpu]) -> list[str]:
        """Return the entries of `variable` that show a process exactly these GPUs; empty if there are none."""
        if self.ascending:
            gpus = sorted(gpus, key=lambda gpu: (gpu.number or 0, gpu.key))
        entries = [gpu.key if self.named.fullmatch(gpu.key) else gpu.number for gpu in gpus]
        return [] if None in entries or not self.variable else [str(entry) for entry in entries]


_AMD_UUID = re.compile(r"GPU-[0-9a-f]{16}", re.IGNORECASE)
_NVIDIA_NAME = re.compile(r"(?:GPU|MIG)-.+", re.IGNORECASE)
# The GPU of a Jetson tells its UUID without a prefix. CUDA would take that for a number, so its number is listed.
_BARE_UUID = r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}"

# The first pattern that fits decides: AMD's UUIDs are one run of hex digits, NVIDIA's hold dashes, and a declared GPU
# such as `GPU-demo-0` is treated as NVIDIA's.
VENDORS = (
    Vendor(
        name="AMD",
        keys=re.compile(rf"{_AMD_UUID.pattern}|AMD-.+", re.IGNORECASE),
        # PyTorch for ROCm keeps CUDA's names.
        framework="cuda:{}",
        variable="ROCR_VISIBLE_DEVICES",
        named=_AMD_UUID,
        lists=(("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")),
        # HIP takes only numbers, within what the runtime below it shows: an inherited list would hide the GPUs.
        dropped=("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    ),
    Vendor(
        name="NVIDIA",
        keys=re.compile(rf"{_NVIDIA_NAME.pattern}|{_BARE_UUID}", re.IGNORECASE),
        framework="cuda:{}",
        variable="CUDA_VISIBLE_DEVICES",
        named=_NVIDIA_NAME,
        # CUDA's own order is the fastest first; the index that `nvidia-smi` shows follows the bus.
        beside={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ),
    Vendor(
        name="Intel",
        keys=re.compile(r"INTEL-.+", re.IGNORECASE),
        framework="xpu:{}",
        variable="ZE_AFFINITY_MASK",
        ascending=True,
        lists=(("ZE_AFFINITY_MASK",), ("ONEAPI_DEVICE_SELECTOR",)),
        # Without these the numbers follow an order of oneAPI's own, and count the tiles of a GPU.
        beside={"ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1", "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"},
        # Its numbers count only what the mask leaves.
        dropped=("ONEAPI_DEVICE_SELECTOR",),
    ),
    # A Mac has one GPU, so there is nothing to choose.
    Vendor(name="Apple", keys=re.compile(re.escape(APPLE_KEY)), framework="mps"),
)
UNKNOWN = Vendor(name="unknown", keys=re.compile(r".*"), framework="")


def amd_key(unique_id: str, address: str) -> str:
    """Return the key of AMD's GPU at a place on the PCI bus: ROCm's UUID, or the place without a unique number."""
    return f"GPU-{unique_id}" if unique_id else f"AMD-{address}"


def intel_key(address: str) -> str:
    """Return the key of Intel's GPU at a place on the PCI bus."""
    return f"INTEL-{address}"


def vendor_of(key: str) -> Vendor:
    """Return the vendor of the GPU with that key, `UNKNOWN` for any other key."""
    return next((vendor for vendor in VENDORS if vendor.keys.fullmatch(key)), UNKNOWN)


def is_lone(key: str) -> bool:
    """Return whether a process can use no other GPU beside this one: CUDA shows it one MIG instance at most."""
    return key.upper().startswith("MIG-")


def number_among(key: str, present: Collection[str]) -> int | None:
    """Return the place of a declared GPU among those of its vendor, in the order of the bus that their keys tell.

    It is the best that is known where detection does not see it; `None` for a GPU that is pinned by its key.
    """
    vendor = vendor_of(key)
    if not vendor.variable or vendor.named.fullmatch(key):
        return None
    return sorted(other for other in present if vendor_of(other) is vendor).index(key)


def pin(env: dict[str, str], gpus: Collection[Gpu]) -> None:
    """Change `env` so that a process with it sees only these GPUs, for each vendor that can; see `unpinned`."""
    for vendor in VENDORS:
        entries = vendor.listing([gpu for gpu in gpus if vendor_of(gpu.key) is vendor])
        if entries:
            for variable in vendor.dropped:
                env.pop(variable, None)
            env.update({vendor.variable: ",".join(entries), **vendor.beside})


def unpinned(gpus: Collection[Gpu], present: Collection[str]) -> list[str]:
    """Return the keys of `gpus` that a process cannot be pinned to, although it may see other GPUs of their vendor.

    Args:
        gpus: The granted GPUs.
        present: Keys of all GPUs of the machine.
    """
    loose: list[str] = []
    for vendor in (*VENDORS, UNKNOWN):
        own = [gpu for gpu in gpus if vendor_of(gpu.key) is vendor]
        others = {key for key in present if vendor_of(key) is vendor}.difference(gpu.key for gpu in own)
        if vendor is UNKNOWN or (others and not vendor.listing(own)):
            loose += [gpu.key for gpu in own]
    return loose
