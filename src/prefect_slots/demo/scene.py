"""The demo's scene: photographs, the flow file, and this machine's GPUs or the two declared ones."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from prefect_slots.detect.survey import SHIPPED, survey
from prefect_slots.model import GPU_MEM, Declarations, DetectorRules, format_amount

# Pictures that scikit-image ships: nothing is downloaded. The sizes differ, so that the flow runs' times do too.
PHOTOS = (
    "astronaut.png", "coffee.png", "hubble_deep_field.jpg", "chelsea.png", "rocket.jpg", "moon.png", "camera.png",
    "motorcycle_left.png", "retina.jpg", "coins.png", "clock_motion.png", "grass.png",
)  # fmt: skip
ENTRYPOINT = "image_pipeline.py:image_pipeline"
_CONFIG, _FLOW = "configs/demo.toml", "flows/image_pipeline.py"
# More than half of a declared GPU of 24 GiB: one flow run a GPU, so that others have to wait.
_ASKED_GIB = 16
_WRITTEN = f"gpu_mem={_ASKED_GIB},"
_REAL_CARDS = """[settings]
worker = "demo"
[license.matlab]
seats = 2
scope = "fleet"
"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The texts of the demo's files.

    Attributes:
        config: Text of the resource file.
        flow: Text of the flow file.
        remarks: Remarks about the GPUs for the viewer.
        declared: The GPUs are declared and do not exist.
    """

    config: str
    flow: str
    remarks: tuple[str, ...]
    declared: bool


def set_scene() -> Scene:
    """Return a scene with this machine's NVIDIA GPUs, or with the example's two declared ones if there are none."""
    # The few hundred MiB of a laptop's built-in graphics would leave nothing to share out.
    nvidia_only = Declarations(detectors=tuple(DetectorRules(name=name, enabled=False) for name in SHIPPED))
    found = survey(nvidia_only, os.environ).inventory
    gpus = [cell for resource in found.resources if resource.name == GPU_MEM for cell in resource.cells]
    flow = read_part(_FLOW)
    if not gpus:
        remark = (
            "No NVIDIA GPU was found here, so the two 24GiB cards declared in configs/demo.toml stand in: "
            "nothing computes on them, but they are shared as real ones are."
        )
        return Scene(config=read_part(_CONFIG), flow=flow, remarks=(remark,), declared=True)
    named = ", ".join(f"{cell.label or cell.key} with {format_amount(cell.capacity, 'MiB')}" for cell in gpus)
    remarks = [f"Found {named}. Their memory is shared out; the demo computes on the CPU."]
    asked = affordable([cell.capacity for cell in gpus])
    if asked < _ASKED_GIB:
        remarks.append(f"So that two flow runs fit, each asks for {asked} GiB and not for {_ASKED_GIB}.")
    flow = flow.replace(_WRITTEN, f"gpu_mem={asked},")
    return Scene(config=_REAL_CARDS, flow=flow, remarks=tuple(remarks), declared=False)


def affordable(sizes_mib: Sequence[int], asked: int = _ASKED_GIB) -> int:
    """Return the most GiB, `asked` at most and 1 at least, that two flow runs can have at the same time."""
    return next((gib for gib in range(asked, 1, -1) if sum(size // (gib * 1024) for size in sizes_mib) >= 2), 1)


def read_part(path: str) -> str:
    """Return a file that the wheel packages beside this one and a clone has in its own place."""
    # The build puts both files beside this module; an editable install has them only in the repository.
    packaged = files("prefect_slots") / "demo" / Path(path).name
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[3] / path).read_text(encoding="utf-8")


def photo_names(count: int) -> dict[str, str]:
    """Return `count` flow-run names with their photographs; a second round over the photographs is numbered."""
    named: dict[str, str] = {}
    for number in range(count):
        turn, place = divmod(number, len(PHOTOS))
        named[Path(PHOTOS[place]).stem + (f"-{turn + 1}" if turn else "")] = PHOTOS[place]
    return named
