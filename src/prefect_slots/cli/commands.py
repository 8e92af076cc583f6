"""The commands by name, each imported when it is asked for."""

from __future__ import annotations

from cyclopts import App


def add_to(app: App) -> None:
    """Give `app` its commands; a module is imported only when one of its commands runs or shows its help."""
    app.command(
        "prefect_slots.cli.machine:detect", name="detect", help="Show what this machine has, as detected and declared."
    )
    app.command(
        "prefect_slots.cli.machine:register",
        name="register",
        help="Make the Prefect server's limits equal what this machine has.",
    )
    app.command(
        "prefect_slots.cli.machine:status",
        name="status",
        help="Show who holds what since when, and who waits for what and why.",
    )
    app.command(
        "prefect_slots.cli.doctoring:doctor",
        name="doctor",
        help="Look for what is wrong with this machine, and say what to do about it.",
    )
    app.command(
        "prefect_slots.cli.running:run",
        name="run",
        help="Run a command under a grant: `run --gpu-mem 8 -- python train.py`.",
    )
    worker = App(name="worker", help="Start a Prefect worker on this machine.")
    worker.command(
        "prefect_slots.cli.working:start", name="start", help="Register this machine, then run `prefect worker start`."
    )
    app.command(worker)
    app.command(
        "prefect_slots.cli.showing:demo", name="demo", help="Watch real flow runs share two cards and a licence."
    )
