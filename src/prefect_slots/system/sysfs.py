"""Devices as sysfs lists them, on the PCI bus and by graphics drivers, and the reader of the kernel's small files."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")
_CARD: Final = re.compile(r"card[0-9]+")


def text_of(path: Path) -> str:
    """Return the text of a small file without white space around it; empty if the file is missing or unreadable."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class PciDevice:
    """One device.

    Attributes:
        vendor: As sysfs writes it: `0x10de`.
        device: The vendor's number of the product.
        kind: The class code: `0x030200`.
        driver: Which kernel driver has it, empty where none has.
    """

    vendor: str
    device: str
    kind: str
    driver: str

    @property
    def draws(self) -> bool:
        """Whether it is a display controller: a graphics or compute card, not the audio device beside it."""
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
    """Return the cards of a vendor (`"0x8086"`) by their place on the bus, in its order: each card's folder.

    Raises:
        OSError: if the list of cards exists and cannot be read.
    """
    found: dict[str, Path] = {}
    with contextlib.suppress(FileNotFoundError):
        for card in (root / "sys/class/drm").iterdir():
            if _CARD.fullmatch(card.name) and text_of(card / "device/vendor") == vendor:
                found[(card / "device").resolve().name] = card
    return dict(sorted(found.items()))
