"""Both acts on one server and worker: the flow runs all at once, then the same ones strictly one after another."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

from prefect_slots.demo.acts import Act, Moment, Use, Watch
from prefect_slots.demo.api import Api
from prefect_slots.demo.scene import ENTRYPOINT, Scene, photo_names, set_scene
from prefect_slots.demo.stage import DemoFailed, Stage
from prefect_slots.ledger.store import Ledger
from prefect_slots.observe import status, timeline
from prefect_slots.scheduling.decide import decide

AT_ONCE = "all at once"
IN_TURN = "one after another"
# Each flow run is a process that imports Prefect; more of them at once would crowd a small machine.
MOST_AT_ONCE = 8
_POOL = "demo"
# Generous: a first start makes the database, on a disk that may be slow.
_SERVER_SECONDS = 90.0
_WORKER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of the demo.

    Attributes:
        declared: The GPUs are declared and do not exist.
        uses: Slots of each limit and the highest number that the server showed as taken, over both acts.
        lanes: The cells in use, for the picture.
    """

    declared: bool
    at_once: Act
    in_turn: Act
    uses: dict[str, Use]
    lanes: tuple[timeline.Lane, ...]

    def to_data(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "cards": "declared" if self.declared else "detected",
            "seconds": {"at_once": self.at_once.seconds, "one_after_another": self.in_turn.seconds},
            "limits": {name: asdict(use) for name, use in self.uses.items()},
            "at_once": asdict(self.at_once),
            "one_after_another": asdict(self.in_turn),
        }


class Audience(Protocol):
    """Display of the demo's progress for people."""

    def scene(self, scene: Scene) -> None:
        """Show the scene before the first step."""

    def step(self, command: str, seconds: float) -> None:
        """Show that a step of the preparation is done."""

    def begin(self, title: str, runs: int) -> None:
        """Show that an act begins."""

    def moment(self, moment: Moment) -> None:
        """Show a moment of the act."""

    def end(self) -> None:
        """Show that the act is over."""


def play(runs: int, audience: Audience) -> Report:
    """Play everything and leave nothing behind.

    Raises:
        DemoFailed: if something did not work.
        Stopped: if a signal came.
    """
    # Said before a server is started: otherwise the first flow run would fail, after all the waiting.
    missing = [name for name in ("skimage", "PIL", "numpy") if find_spec(name) is None]
    if missing:
        raise DemoFailed(f"the demo computes with {', '.join(missing)}: pip install 'prefect-slots[demo]'")
    with Stage() as stage, closing(Api(stage.url, stage.rest)) as api:
        scene = set_scene()
        audience.scene(scene)
        (stage.folder / "demo.toml").write_text(scene.config, encoding="utf-8")
        (stage.folder / "image_pipeline.py").write_text(scene.flow, encoding="utf-8")
        _set_up(stage, api, runs, audience.step)
        # Opened for reading alone; the worker's processes decide.
        with closing(Ledger(stage.folder / "state", partial(decide, max_overtakes=0))) as ledger:
            return _play(stage, api, ledger, runs, scene, audience)


def _set_up(stage: Stage, api: Api, runs: int, done: Callable[[str, float], None]) -> None:
    port = stage.url.rsplit(":", 1)[1].removesuffix("/api")
    began = time.monotonic()
    stage.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
    stage.until(api.is_up, _SERVER_SECONDS, "the server is not up", log="server")
    done("prefect server start", time.monotonic() - began)

    began = time.monotonic()
    stage.start("pool", "prefect", "work-pool", "create", _POOL, "--type", "process")
    stage.finish("pool")
    done(f"prefect work-pool create {_POOL} --type process", time.monotonic() - began)

    # The worker takes as long to start as the deployment does.
    began = time.monotonic()
    at_once = str(min(runs, MOST_AT_ONCE))
    stage.start("worker", "prefect_slots", "worker", "start", "--pool", _POOL, "--limit", at_once)
    stage.start("deploy", "prefect", "--no-prompt", "deploy", ENTRYPOINT, "--name", "demo", "--pool", _POOL)
    stage.finish("deploy")
    done(f"prefect deploy {ENTRYPOINT} --name demo --pool {_POOL}", time.monotonic() - began)
    stage.until(lambda: api.has_worker(_POOL), _WORKER_SECONDS, "the worker is not up", log="worker")
    done(f"prefect-slots worker start --pool {_POOL} --limit {at_once}", time.monotonic() - began)


def _play(stage: Stage, api: Api, ledger: Ledger, runs: int, scene: Scene, audience: Audience) -> Report:
    photos = photo_names(runs)
    watch = Watch(stage, api, ledger, audience.moment)
    acts: list[Act] = []
    for title, at_once in ((AT_ONCE, None), (IN_TURN, 1)):
        api.allow_at_once(_POOL, at_once)
        audience.begin(title, runs)
        try:
            acts.append(watch.play(title, photos))
        finally:
            audience.end()
    spans = [span for act in acts for span in act.spans]
    return Report(
        declared=scene.declared,
        at_once=acts[0],
        in_turn=acts[1],
        uses=watch.uses,
        lanes=timeline.lanes_of(status.machine_status(ledger).cells, spans),
    )
