"""Load a photograph, analyse it, save what was found: the middle step needs a GPU's memory and a licence.

    prefect deploy flows/image_pipeline.py:image_pipeline --name photos --pool ml-pool
    prefect-slots worker start --pool ml-pool
    prefect deployment run image-pipeline/photos --param photo=coffee.png

However many of these run at once, each waits before `analyse` until one card has 16 GiB free and a seat is free, takes
both together, and gives both back. `load` and `save` never wait.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from prefect import flow, task
from skimage.restoration import denoise_nl_means
from skimage.segmentation import felzenszwalb, mark_boundaries

from prefect_slots import current_grant, requires

Pixels = np.ndarray[Any, np.dtype[Any]]


@task
def load(photo: str) -> Pixels:
    """Read a photograph that ships inside scikit-image, 640 pixels on its longer side."""
    with (files("skimage") / "data" / photo).open("rb") as file:
        return np.asarray(ImageOps.contain(Image.open(file).convert("RGB"), (640, 640))) / 255


# Below `@task`: a retry of the task then asks anew, and the task shows as waiting in Prefect while it waits.
@task
@requires(gpu_mem=16, license={"matlab": 1})
def analyse(pixels: Pixels) -> tuple[Pixels, int]:
    """Remove the noise and outline the regions; return the picture and how many regions there are."""
    grant = current_grant()
    # A framework would compute on this card: model.to(grant.device).
    print(f"analysing on {grant.device if grant else 'cpu'}")
    smooth = denoise_nl_means(pixels, h=0.04, sigma=0.03, patch_size=5, channel_axis=-1)
    regions = felzenszwalb(smooth, scale=200, min_size=100)
    return mark_boundaries(smooth, regions), int(regions.max()) + 1


@task
def save(pixels: Pixels, path: Path) -> Path:
    """Write the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255).astype("uint8")).save(path)
    return path


@flow(log_prints=True)
def image_pipeline(photo: str = "coffee.png", folder: Path = Path("pictures")) -> int:
    """Outline the regions of one photograph; return how many there are."""
    outlined, regions = analyse(load(photo))
    path = save(outlined, folder / f"{Path(photo).stem}.png")
    print(f"{photo}: {regions} regions, see {path}")
    return regions


if __name__ == "__main__":
    # Without a server: the machine's own ledger alone decides.
    image_pipeline()
