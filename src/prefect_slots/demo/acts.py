"""One act: flow runs triggered, watched until they have ended, and measured."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_slots.demo.api import Api, FlowRun
from prefect_slots.demo.stage import DemoFailed, Stage
from prefect_slots.ledger import queries, store
from prefect_slots.model import GPU_MEM
from prefect_slots.observe.status import MachineStatus, machine_status
from prefect_slots.observe.timeline import run_of

DEPLOYMENT = "image-pipeline/demo"
# Often enough to see each flow run hold its GPU, seldom enough to leave the cores to the flow runs.
SAMPLE_SECONDS = 0.4
# Generous: only a hang should reach it.
_SECONDS_PER_RUN = 60.0
# Releases are under way for a moment after the last flow run has ended.
_SETTLE_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class RunNow:
    """Present phase of a flow run: scheduled, starting, loading, waiting, analysing, saving, done, or a bad end."""

    name: str
    phase: str
    detail: str = ""
    since: float | None = None


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The machine and the flow runs at one moment; `seconds` counts from the start of the act."""

    act: str
    seconds: float
    runs: tuple[RunNow, ...]
    machine: MachineStatus


@dataclass(kw_only=True)
class Use:
    """A limit on the server: its slots, and the highest number seen taken."""

    slots: int
    peak: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Record of a flow run that has ended: seconds of waiting, GPU, seconds for which it held the GPU."""

    name: str
    photo: str
    state: str
    seconds: float
    waited: float
    card: int
    held: float


@dataclass(frozen=True, kw_only=True)
class Act:
    """Record of one act, from the first trigger to the end of the last flow run on the server."""

    seconds: float
    runs: tuple[Outcome, ...]
    spans: tuple[queries.Span, ...]


class Watch:
    """Player of acts on a stage; it keeps the highest use of each limit over all of them.

    Args:
        stage: The stage with server and worker.
        api: The server.
        ledger: The worker's ledger.
        show: Called with every moment.
    """

    def __init__(self, stage: Stage, api: Api, ledger: store.Ledger, show: Callable[[Moment], None]) -> None:
        self.uses: dict[str, Use] = {}
        self._stage = stage
        self._api = api
        self._ledger = ledger
        self._show = show

    def play(self, title: str, photos: Mapping[str, str]) -> Act:
        """Trigger a flow run for each name and photograph, and watch until all have ended.

        Raises:
            DemoFailed: if a flow run ended badly, or a limit still shows slots taken afterwards.
        """
        began, start = time.time(), time.monotonic()
        ids: list[str] = []
        deadline = start + 60.0 + len(photos) * _SECONDS_PER_RUN
        while True:
            # One trigger a round keeps the display moving while the flow runs are created.
            if len(ids) < len(photos):
                name = list(photos)[len(ids)]
                parameters = {"photo": photos[name], "folder": str(self._stage.folder / "pictures" / name)}
                ids.append(self._api.trigger(DEPLOYMENT, name, parameters, f"{title} {name}"))
            runs = self._api.flow_runs(ids)
            self._sample()
            seconds = time.monotonic() - start
            status, spans = machine_status(self._ledger), self._spans(began)
            now = tuple(_now(name, runs, status, spans) for name in photos)
            self._show(Moment(act=title, seconds=seconds, runs=now, machine=status))
            # One failure ends the demo: the figures of the others would mean nothing.
            if bad := next((run for run in runs if run.is_over and run.type != "COMPLETED"), None):
                words = f"the flow run '{bad.name}' ended as {bad.state}: {bad.message}"
                raise DemoFailed(words, self._stage.log("worker"))
            if len(runs) == len(photos) and all(run.is_over for run in runs):
                break
            if time.monotonic() > deadline:
                raise DemoFailed(f"the flow runs did not end within {deadline - start:g} s", self._stage.log("worker"))
            if len(ids) == len(photos):
                self._stage.rest(SAMPLE_SECONDS)
        self._stage.until(self._is_free, _SETTLE_SECONDS, "the limits are not free again")
        spans = self._spans(began)
        outcomes = tuple(_outcome(name, photos[name], runs, spans) for name in photos)
        return Act(seconds=seconds, runs=outcomes, spans=spans)

    def _sample(self) -> dict[str, tuple[int, int]]:
        limits = self._api.limits()
        for name, (slots, taken) in limits.items():
            use = self.uses.setdefault(name, Use(slots=slots))
            use.peak = max(use.peak, taken)
        return limits

    def _is_free(self) -> bool:
        return not any(taken for _, taken in self._sample().values())

    def _spans(self, began: float) -> tuple[queries.Span, ...]:
        return tuple(span for span in self._ledger.read(queries.history) if span.asked_at >= began)


def _now(name: str, runs: list[FlowRun], status: MachineStatus, spans: tuple[queries.Span, ...]) -> RunNow:
    run = next((run for run in runs if run.name == name), None)
    if run is None or run.type == "SCHEDULED":
        return RunNow(name=name, phase="scheduled")
    if run.is_over:
        return RunNow(name=name, phase="done" if run.type == "COMPLETED" else run.state, detail=run.message)
    for waiter in status.waiting:
        if run_of(waiter.label) == name:
            return RunNow(name=name, phase="waiting", detail=waiter.reason.removeprefix("waits "), since=waiter.since)
    for cell in status.cells:
        for holder in cell.holders:
            if run_of(holder.label) == name and cell.resource == GPU_MEM:
                return RunNow(name=name, phase="analysing", detail=f"on card {cell.number}", since=holder.since)
    # The ledger knows waiting and holding; before and after them the server's state has to do.
    if run.type != "RUNNING":
        return RunNow(name=name, phase="starting")
    return RunNow(name=name, phase="saving" if any(run_of(span.label) == name for span in spans) else "loading")


def _outcome(name: str, photo: str, runs: list[FlowRun], spans: tuple[queries.Span, ...]) -> Outcome:
    run = next(run for run in runs if run.name == name)
    span = next((span for span in spans if run_of(span.label) == name and span.resource == GPU_MEM), None)
    if span is None:
        raise DemoFailed(f"the flow run '{Path(photo).stem}' ended without ever holding a card")
    return Outcome(
        name=name,
        photo=photo,
        state=run.state,
        seconds=run.seconds,
        waited=span.granted_at - span.asked_at,
        card=span.number,
        held=span.ended_at - span.granted_at,
    )
