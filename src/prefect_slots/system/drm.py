"""Cards as the Linux kernel's graphics drivers list them, whoever made them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

_CARD: Final = re.compile(r"card[0-9]+")


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


def text_of(path: Path) -> str:
    """Return what a file says; empty where it is missing or cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
