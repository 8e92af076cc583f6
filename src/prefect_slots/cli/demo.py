"""`demo`: real flow runs share this machine's GPUs, watched live; a table and a picture stay."""

import io
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from prefect_slots.cli import app, tables
from prefect_slots.demo import acts, play, stage
from prefect_slots.demo.scene import Scene
from prefect_slots.observe import status, timeline
from prefect_slots.observe.picture import to_png, to_svg

# One character a GiB of a declared GPU.
_BAR = 24
# The moments come every 0.4 s; in between only the clock of the display changes.
_REFRESH_PER_SECOND = 8
# Green for phases that hold a GPU or are over, yellow for waiting: the colors tell the story without reading.
_STYLES = {"waiting": "yellow", "analysing": "bold green", "done": "green", "scheduled": "dim", "starting": "dim"}


def demo(
    *,
    runs: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=48), help="How many flow runs.")] = 8,
    out: Annotated[Path, Parameter(help="Where the picture and the table go.")] = Path("prefect-slots-demo"),
    json: app.Json = False,
) -> int:
    """Watch real flow runs share two GPUs and two license seats, on a private Prefect server that leaves nothing.

    Registers this machine (without an NVIDIA GPU, with two declared GPUs of 24 GiB), deploys an image pipeline, starts
    a real worker, and runs the flow on photographs: all at once, then one after another for comparison. Takes a minute
    or two. Nothing of your Prefect is touched; Ctrl-C at any moment cleans up.

    Examples:
        prefect-slots demo

        prefect-slots demo --runs 12 --out /tmp/demo

        prefect-slots demo --json | jq .limits
    """
    out = out.absolute()
    # With `--json`, standard output is for programs alone.
    console = Console(stderr=json, highlight=False)
    audience = LiveAudience(console) if console.is_terminal and not json else PlainAudience(console)
    try:
        report = play.play(runs, audience)
    except stage.Stopped as stopped:
        console.print("Stopped; everything was cleaned up.")
        return 128 + stopped.number
    files = write_files(report, out)
    if json:
        app.print_json({**report.to_data(), "files": [str(file) for file in files]})
        return 0
    console.print(report_view(report))
    console.print("Nothing else is left of the demo than:")
    for file in files:
        console.print(Text(f"  {file}"), soft_wrap=True)
    return 0


def write_files(report: play.Report, folder: Path) -> tuple[Path, ...]:
    """Write picture and table; return their paths."""
    count = len(report.at_once.runs)
    title = f"Who held which card when: {count} flow run{'s' if count > 1 else ''}, {play.AT_ONCE}"
    picture = timeline.layout(report.at_once.spans, report.lanes, title=title)
    text = io.StringIO()
    Console(file=text, width=100, no_color=True).print(report_view(report))
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "timeline.svg": to_svg(picture).encode(),
        "timeline.png": to_png(picture),
        "table.txt": text.getvalue().encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return tuple(folder / name for name in contents)


class PlainAudience:
    """Display of one line for each new phase of a flow run, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._phases: dict[str, tuple[str, str]] = {}

    def scene(self, scene: Scene) -> None:
        """Print the remarks about the GPUs."""
        title = Text("prefect-slots demo", style="bold")
        self.console.print(title + Text(": a private server, a worker, real flow runs."))
        for remark in scene.remarks:
            self.console.print(Text(remark, style="yellow"))

    def step(self, command: str, seconds: float) -> None:
        """Print a step of the preparation."""
        self._line(f"{command} ({seconds:.0f} s)")

    def begin(self, title: str, runs: int) -> None:
        """Print the title of the act."""
        self._phases = {}
        self._line(f"{runs} flow runs, {title}:")

    def moment(self, moment: acts.Moment) -> None:
        """Print the flow runs whose phase has changed."""
        for run in moment.runs:
            if self._phases.get(run.name, ("scheduled", ""))[0] != run.phase:
                self._line(f"{moment.seconds:6.1f} s  {run.name:18} {run.phase} {run.detail}".rstrip())
            self._phases[run.name] = (run.phase, run.detail)

    def end(self) -> None:
        """Nothing to do."""

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
        # A pipe is buffered by the block, and its reader waits for the line.
        (sys.stderr if self.console.stderr else sys.stdout).flush()


class LiveAudience(PlainAudience):
    """Display on a terminal, redrawn in place."""

    def step(self, command: str, seconds: float) -> None:
        """Print a step of the preparation."""
        self.console.print(Text("✓ ", style="green") + Text(command) + Text(f"  {seconds:.0f} s", style="dim"))

    def begin(self, title: str, runs: int) -> None:
        """Start the drawing of an act."""
        opening = Text(f"\n{runs} flow runs, {title}", style="bold")
        self._live = Live(opening, console=self.console, refresh_per_second=_REFRESH_PER_SECOND)
        self._live.start()

    def moment(self, moment: acts.Moment) -> None:
        """Redraw."""
        self._live.update(moment_view(moment))

    def end(self) -> None:
        """Leave the last drawing on the screen."""
        self._live.stop()


def moment_view(moment: acts.Moment) -> Group:
    """Return the cells with their holders, and the flow runs with their phases and reasons to wait."""
    over = sum(run.phase == "done" for run in moment.runs)
    head = Text(f"\n{len(moment.runs)} flow runs, {moment.act}", style="bold")
    head += Text(f"   {over} done   {moment.seconds:.0f} s", style="default")
    shown = Table.grid(*(Column(no_wrap=True, overflow="ellipsis") for _ in range(4)), padding=(0, 2))
    cells = [cell for cell in moment.machine.cells if cell.resource == "gpu_mem" or "license" in cell.resource]
    for cell in cells:
        name = f"card {cell.number}" if cell.resource == "gpu_mem" else cell.resource.replace("license.", "licence ")
        held = tables.amount(cell.held, cell.unit).split()[0] if cell.held else "0"
        used = f"{held} of {tables.amount(cell.capacity, cell.unit)}"
        shown.add_row(name, _bar(cell), used, ", ".join(timeline.run_of(holder.label) for holder in cell.holders))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("flow run", "does", "", "for"):
        table.add_column(name, no_wrap=True, justify="right" if name == "for" else "left")
    # Flow runs that wait for the same thing share one line below the table.
    reasons: dict[str, list[str]] = {}
    for run in moment.runs:
        since = "" if run.since is None else tables.ago(run.since)
        if run.phase == "waiting":
            reasons.setdefault(run.detail, []).append(run.name)
        where = "" if run.phase == "waiting" else run.detail
        table.add_row(run.name, Text(run.phase, style=_STYLES.get(run.phase, "cyan")), where, since)
    waits = [Text(f"{', '.join(names)} wait{'s' * (len(names) == 1)} {why}") for why, names in reasons.items()]
    return Group(head, "", shown, "", table, "", *waits)


def _bar(cell: status.CellStatus) -> Text:
    filled = round(_BAR * cell.held / cell.capacity) if cell.capacity else 0
    return Text("█" * filled, style="green") + Text("░" * (_BAR - filled), style="dim")


def report_view(report: play.Report) -> Group:
    """Return tables of the flow runs, of the highest use of each limit, and of the times."""
    numbers = map(tables.number, ("waited", "card", "held it", "whole run"))
    runs = tables.titled(f"Flow runs, {play.AT_ONCE}", "flow run", *numbers)
    for run in report.at_once.runs:
        runs.add_row(run.name, _seconds(run.waited), str(run.card), _seconds(run.held), _seconds(run.seconds))
    title = "Limits, as the server showed them"
    limits = tables.titled(title, "limit", tables.number("slots"), tables.number("most ever taken"))
    for name, use in report.uses.items():
        # Limits that no flow run took would only lengthen the table.
        if use.peak:
            style = "bold red" if use.peak > use.slots else ""
            limits.add_row(name, _slots(name, use.slots), Text(_slots(name, use.peak), style=style))
    times = tables.titled("The same flow runs")
    times.show_header = False
    times.add_row(play.AT_ONCE, _seconds(report.at_once.seconds))
    times.add_row(f"{play.IN_TURN} (the pool allows one at a time)", _seconds(report.in_turn.seconds))
    times.add_row("faster", f"{report.in_turn.seconds / report.at_once.seconds:.1f} times")
    return Group("", runs, "", limits, "", times, "")


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _slots(limit: str, count: int) -> str:
    return tables.amount(count, "MiB") if limit.startswith(("gpu-mem:", "mem:")) else str(count)
