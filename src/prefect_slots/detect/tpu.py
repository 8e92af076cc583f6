"""Google's TPU chips, as the PCI bus shows them: the resource `tpu`, in chips."""

from prefect_slots.detect.detector import Answer, Scene, Sight, single
from prefect_slots.model import Finding
from prefect_slots.system.sysfs import query_pci

TPU = "tpu"
VARIABLE = "TPU_VISIBLE_CHIPS"

_GOOGLE = "0x1ae0"
# Google's network cards have its vendor number too, so each chip is known by its own.
_CHIPS = {
    "0x0027": "TPU v2 or v3",
    "0x0056": "TPU",
    "0x005e": "TPU v4",
    "0x0062": "TPU v5p",
    "0x0063": "TPU v5e",
    "0x006f": "TPU v6e",
    "0x0076": "TPU v7",
}


class TpuDetector:
    """Detector of the chips of this machine, or those that `TPU_VISIBLE_CHIPS` leaves of them."""

    resources = frozenset({TPU})

    def detect(self, scene: Scene) -> Answer:
        """Count the chips on the bus."""
        chips = [
            _CHIPS[device.device]
            for device in query_pci(scene.root)
            if device.vendor == _GOOGLE and device.device in _CHIPS
        ]
        return interpret_tpu(chips, scene.env.get(VARIABLE))


def interpret_tpu(chips: list[str], visible: str | None) -> Answer:
    """Return the chips on the bus as one cell, because a program takes several as one."""
    if not chips:
        return Answer()
    count = len(chips)
    findings: tuple[Finding, ...] = ()
    if visible:
        listed = {entry.strip() for entry in visible.split(",")}
        known = {entry for entry in listed if entry.isdecimal() and int(entry) < count}
        count = len(known)
        if known != listed:
            problem = f"{VARIABLE}={visible!r} names a chip that is not here; there are {len(chips)}"
            findings = (Finding(subject=TPU, problem=problem, remedy=f"correct {VARIABLE}, or unset it"),)
    if count == 0:
        return Answer(findings=findings)
    sight = Sight(resource=TPU, unit="chips", label=chips[0], found=count, offered=count)
    return single(sight, "pci", findings)
