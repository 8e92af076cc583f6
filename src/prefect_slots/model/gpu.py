"""The vendor of a GPU: the variables that pin a process to it, and the name that frameworks give it.

A cell's key tells the vendor. `GPU-<uuid>` and `MIG-<uuid>` are NVIDIA's own names, `GPU-<16 hex digits>` are AMD's;
the other keys are made here for the detectors. No other module reads a vendor from a key.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

APPLE_KEY = "APPLE-GPU"


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The rules of one vendor's runtime.

    Attributes:
        name: The vendor's name, for people.
        keys: Pattern of the keys of its GPUs.
        framework: PyTorch's name of a device, with `{}` for its number; empty if there is none.
        variable: Variable that lists the GPUs of a process by key; empty if the runtime knows no keys.
        listed: Pattern of the keys that `variable` may hold.
        beside: Variables that are set together with the list.
        dropped: Variables that are removed together with it.
    """

    name: str
    keys: re.Pattern[str]
    framework: str
    variable: str = ""
    listed: re.Pattern[str] = re.compile(r".+")
    beside: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: tuple[str, ...] = ()

    def can_pin(self, keys: Iterable[str]) -> bool:
        """Return true if the runtime can show a process exactly these GPUs."""
        return self.variable != "" and all(self.listed.fullmatch(key) for key in keys)


_AMD_UUID = re.compile(r"GPU-[0-9a-f]{16}", re.IGNORECASE)

# The first pattern that fits decides: AMD's UUIDs are one run of hex digits, NVIDIA's hold dashes, and a declared GPU
# such as `GPU-demo-0` is treated as NVIDIA's.
VENDORS = (
    Vendor(
        name="AMD",
        keys=re.compile(rf"{_AMD_UUID.pattern}|AMD-.+", re.IGNORECASE),
        # PyTorch for ROCm keeps CUDA's names.
        framework="cuda:{}",
        variable="ROCR_VISIBLE_DEVICES",
        # A GPU without a unique number has only ROCm's index, which a later boot may give to another GPU.
        listed=_AMD_UUID,
        # HIP takes only numbers, within what the runtime below it shows: an inherited list would hide the GPUs.
        dropped=("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    ),
    Vendor(
        name="NVIDIA",
        keys=re.compile(r"(?:GPU|MIG)-.+", re.IGNORECASE),
        framework="cuda:{}",
        variable="CUDA_VISIBLE_DEVICES",
        # CUDA's own order is the fastest first; the index that `nvidia-smi` shows follows the bus.
        beside={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ),
    # `ZE_AFFINITY_MASK` and `ONEAPI_DEVICE_SELECTOR` take numbers of oneAPI's own. It counts built-in graphics and, in
    # the flat hierarchy, single tiles: detection cannot know these numbers, and a wrong one pins to another GPU.
    Vendor(name="Intel", keys=re.compile(r"INTEL-.+", re.IGNORECASE), framework="xpu:{}"),
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


def pin(env: dict[str, str], keys: Collection[str]) -> None:
    """Change `env` so that a process with it sees only these GPUs, for each vendor that can; see `unpinned`."""
    for vendor in VENDORS:
        own = [key for key in keys if vendor_of(key) is vendor]
        if own and vendor.can_pin(own):
            for variable in vendor.dropped:
                env.pop(variable, None)
            env.update({vendor.variable: ",".join(own), **vendor.beside})


def unpinned(keys: Collection[str], present: Collection[str]) -> list[str]:
    """Return those of `keys` that a process cannot be pinned to, although it may see other GPUs of their vendor.

    Args:
        keys: The granted GPUs.
        present: All GPUs of the machine.
    """
    loose: list[str] = []
    for key in keys:
        vendor = vendor_of(key)
        others = {other for other in present if vendor_of(other) is vendor}.difference(keys)
        own = [other for other in keys if vendor_of(other) is vendor]
        if vendor is UNKNOWN or (others and not vendor.can_pin(own)):
            loose.append(key)
    return loose


def framework_name(key: str, index: int, env: Mapping[str, str]) -> str:
    """Return PyTorch's name of a GPU in a process with the environment `env`; empty for an unknown vendor.

    With keys in the vendor's variable the number is the place in that list. Otherwise it is `index`, the GPU's place in
    the order of the bus, which is CUDA's with `CUDA_DEVICE_ORDER=PCI_BUS_ID` (the worker sets it).

    Args:
        key: The GPU's key.
        index: Its place among the vendor's GPUs.
        env: The environment of the process.
    """
    vendor = vendor_of(key)
    listed = [entry.strip() for entry in env.get(vendor.variable, "").split(",") if entry.strip()]
    for place, entry in enumerate(listed):
        if key.startswith(entry) or entry == str(index):
            return vendor.framework.format(place)
    return vendor.framework.format(index)
