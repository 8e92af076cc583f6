"""The devices on the PCI bus, as sysfs lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


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
        try:
            texts = [(folder / name).read_text().strip() for name in ("vendor", "device", "class")]
        except OSError:
            # A device that goes away while the bus is read.
            continue
        driver = folder / "driver"
        name = driver.readlink().name if driver.is_symlink() else ""
        yield PciDevice(vendor=texts[0], device=texts[1], kind=texts[2], driver=name)
