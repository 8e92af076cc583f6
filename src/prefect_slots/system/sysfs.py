"""Devices as sysfs lists them, on the PCI bus and by graphics drivers, and the reader of the kernel's small files."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The folder that stands for `/`; tests read made-up trees elsewhere.
ROOT = Path("/")
# Beside them stand their outputs (`card0-HDMI-A-1`) and render nodes (`renderD128`).
_CARD = re.compile(r"card[0-9]+")


def text_of(path: Path) -> str:
    """Return the text of a small file without white space around it; empty if the file is missing or unreadable."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class PciDevice:
    """A device on the PCI bus, with numbers as sysfs writes them.

    Attributes:
        vendor: The vendor's number, such as `0x10de`.
        device: The vendor's number of the product.
        kind: The class code, such as `0x030200`.
        driver: The kernel driver that has it; empty if none has.
    """

    vendor: str
    device: str
    kind: str
    driver: str

    @property
    def draws(self) -> bool:
        """It is a display controller, which a GPU is and the audio device beside it is not."""
        return self.kind.startswith("0x03")


def query_pci(root: Path) -> Iterator[PciDevice]:
    """Yield the devices that can be read, in the order of their addresses."""
    bus = root / "sys/bus/pci/devices"
    try:
        folders = sorted(bus.iterdir())
    except OSError:
        return
    for folder in folders:
        vendor, device, kind = (text_of(folder / name) for name in ("vendor", "device", "class"))
        if not (vendor and device and kind):
            # The device went away while the bus was read.
            continue
        driver = folder / "driver"
        name = driver.readlink().name if driver.is_symlink() else ""
        yield PciDevice(vendor=vendor, device=device, kind=kind, driver=name)


def query_drm(root: Path, vendor: str) -> dict[str, Path]:
    """Return the folder of each GPU of a vendor (`"0x8086"`) by its address on the bus, in the order of addresses.

    Raises:
        OSError: if the list of GPUs exists and cannot be read.
    """
    found: dict[str, Path] = {}
    with contextlib.suppress(FileNotFoundError):
        for card in (root / "sys/class/drm").iterdir():
            if _CARD.fullmatch(card.name) and text_of(card / "device/vendor") == vendor:
                found[(card / "device").resolve().name] = card
    return dict(sorted(found.items()))
