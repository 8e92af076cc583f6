"""Limits that a person deletes, lowers, switches off or raises on a real server: respected, made again, and said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.boxes import Box, line, tell
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, work_pool

from prefect_slots.acquire.engine import close_engine
from prefect_slots.cli.machine import open_ledger
from prefect_slots.errors import LimitMissing
from prefect_slots.observe.status import MachineStatus, machine_status
from prefect_slots.requiring.decorator import requires
from prefect_slots.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.xdist_group("server")]

# Takes what its arguments say, prints "held", and lets go of it when told.
HOLDER = """
    import sys
    from prefect_slots import requires
    wanted = eval(sys.argv[1])
    with requires(**wanted):
        print('"held"', flush=True)
        sys.stdin.readline()
    print('"left"', flush=True)
    sys.stdin.readline()
"""
ONCE = "from prefect_slots import requires\nwith requires({wanted}):\n    print('held')"


def limit(box: Box, name: str) -> dict[str, Any] | None:
    answer = httpx.get(f"{box.url}/v2/concurrency_limits/{name}", timeout=30)
    return None if answer.status_code == 404 else answer.raise_for_status().json()


def mirror(box: Box, name: str) -> str:
    ((ledger,),) = box.run_sql("SELECT value FROM meta WHERE key='ledger_id'")
    return f"tag:{name}@{ledger}"


def patch(box: Box, named: str, /, **change: Any) -> None:
    box.send("PATCH", f"v2/concurrency_limits/{named}", change)


def delete(box: Box, name: str) -> None:
    box.send("DELETE", f"v2/concurrency_limits/{name}", {})


def seen(box: Box) -> MachineStatus:
    with closing(open_ledger(load_settings(env=box.env))) as ledger:
        return machine_status(ledger)


def command(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
    arguments = [sys.executable, "-m", "prefect_slots", *words]
    folder = box.config.parent
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=120, cwd=folder, check=False)


@pytest.mark.parametrize("gone", ["limit", "mirror", "both", "renamed"])
def test_a_deleted_limit_is_made_again_by_a_process_that_asks(box: Box, gone: str) -> None:
    """C18."""
    name = f"cpus:{box.name}"
    box.env["PREFECT_SLOTS_AUTO_REGISTER"] = "true"
    holder = box.start(HOLDER, "dict(cpus=1)")
    assert line(holder) == "held"
    if gone == "renamed":
        patch(box, name, name=f"{name}-away")
    else:
        for each in {"limit": [name], "mirror": [mirror(box, name)], "both": [name, mirror(box, name)]}[gone]:
            delete(box, each)
    assert box.run(ONCE.format(wanted="cpus=1")).strip() == "held"
    found = limit(box, name)
    assert found is not None
    assert found["limit"] == 2
    assert limit(box, mirror(box, name)) is not None
    # The holder from before counts on the new limit too, and no slot of it stays when it has left.
    until(lambda: (limit(box, name) or {})["active_slots"] == 1, 30, what="the holder's slot on the new limit")
    tell(holder)
    assert line(holder) == "left"
    until(lambda: (limit(box, name) or {})["active_slots"] == 0, 30, what="no slot on the new limit")
    until(lambda: (limit(box, mirror(box, name)) or {})["active_slots"] == 0, 30, what="no slot on its mirror")
    holder.communicate("\n", timeout=30)
    if gone == "renamed":
        delete(box, f"{name}-away")


def test_a_waiter_finds_a_limit_that_was_deleted_while_it_waited(box: Box) -> None:
    """C18: also when the grant comes by a hand-over."""
    name = f"scanner:{box.name}"
    box.env["PREFECT_SLOTS_AUTO_REGISTER"] = "true"
    holder = box.start(HOLDER, "dict(scanner=1)")
    assert line(holder) == "held"
    waiter = box.start(HOLDER, "dict(scanner=1)")
    until(lambda: box.rows("ticket") == 1, 30, what="a waiter")
    delete(box, name)
    tell(holder)
    assert line(waiter) == "held"
    until(
        lambda: (limit(box, name) or {"active_slots": 0})["active_slots"] == 1,
        30,
        what="the waiter's slot on the new limit",
    )
    for each in (holder, waiter):
        each.communicate("\n\n", timeout=30)


def test_without_auto_register_a_deleted_limit_is_an_error(box: Box) -> None:
    delete(box, f"cpus:{box.name}")
    with pytest.raises(LimitMissing, match="prefect-slots register"), requires(cpus=1):
        pass
    close_engine()
    box.register()


def lowered(box: Box, name: str) -> Callable[[], None]:
    before = (limit(box, name) or {})["limit"]
    patch(box, name, limit=0)
    return lambda: patch(box, name, limit=before)


def switched_off(box: Box, name: str) -> Callable[[], None]:
    patch(box, name, active=False)
    return lambda: patch(box, name, active=True)


@pytest.mark.parametrize("pause", [lowered, switched_off])
@pytest.mark.parametrize("of", ["scanner", "fleet"])
def test_a_limit_that_a_person_drains_lets_nothing_new_start_until_it_is_set_back(
    box: Box, pause: Callable[[Box, str], Callable[[], None]], of: str
) -> None:
    """C19, without a worker: neither a hand-over nor a new process passes."""
    name, wanted = {
        "scanner": (f"scanner:{box.name}", "dict(scanner=1)"),
        "fleet": (f"license:{box.matlab}", f"dict(license={{'{box.matlab}': 2}})"),
    }[of]
    holder = box.start(HOLDER, wanted)
    assert line(holder) == "held"
    waiter = box.start(HOLDER, wanted)
    until(lambda: box.rows("ticket") == 1, 30, what="a waiter")
    set_back = pause(box, name)
    # A hand-over asks the server nothing: the machine looks about once a second while requests wait.
    until(lambda: [cap.limit for cap in seen(box).changed] == [name], 15, what="the changed limit")
    tell(holder)
    assert line(holder) == "left"
    refused = box.run(
        f"""
        from prefect_slots import requires
        from prefect_slots.errors import WaitTimeout
        try:
            with requires(**{wanted}, timeout=4):
                print("held")
        except WaitTimeout as waited:
            print(waited)
        """
    )
    assert "not granted" in refused
    assert name in refused
    assert "on the server" in refused
    assert box.rows("held") == 0
    shown = seen(box)
    assert [(cap.limit, cap.ours) for cap in shown.changed] == [(name, {"scanner": 1, "fleet": 2}[of])]
    assert name in shown.waiting[0].reason
    until(lambda: seen(box).changed[0].since is not None, 30, what="the time of the change")
    set_back()
    assert line(waiter) == "held"
    until(lambda: not seen(box).changed, 30, what="nothing changed by hand")
    for each in (holder, waiter):
        each.communicate("\n\n", timeout=30)


def test_a_lowered_limit_caps_this_machine_and_a_registration_leaves_it(box: Box) -> None:
    """C19: a cap is respected by `register`, shown by `doctor`, and ended by a raise or by `--adopt`."""
    name = f"cpus:{box.name}"
    patch(box, name, limit=1)
    answered = command(box, "register")
    assert answered.returncode == 0, answered.stderr
    assert f"limit {name}" in answered.stdout
    assert "lowered" in answered.stdout
    assert (limit(box, name) or {})["limit"] == 1
    first = box.start(HOLDER, "dict(cpus=1)")
    assert line(first) == "held"
    with pytest.raises(AssertionError, match="WaitTimeout"):
        box.run(ONCE.format(wanted="cpus=1, timeout=2"))
    report = json.loads(command(box, "doctor", "--json").stdout)
    (told,) = [each for each in report["findings"] if each["about"] == f"limit {name}"]
    assert told["severity"] == "warning"
    assert "lowered" in told["found"]
    assert "UTC" in told["found"] or ":" in told["found"]
    assert command(box, "register", "--adopt").returncode == 0
    assert (limit(box, name) or {})["limit"] == 2
    assert box.run(ONCE.format(wanted="cpus=1")).strip() == "held"
    first.communicate("\n\n", timeout=30)


def test_a_raised_limit_is_put_back_and_that_is_said(box: Box) -> None:
    name = f"cpus:{box.name}"
    patch(box, name, limit=9)
    answered = command(box, "register")
    assert answered.returncode == 0, answered.stderr
    assert (limit(box, name) or {})["limit"] == 2
    assert f"limit {name}" in answered.stdout
    assert "9" in answered.stdout


def test_a_worker_leaves_what_a_person_lowered_and_says_each_change_once(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    """C19, with a worker."""
    box = Box(tmp_path, prefect_server.url)
    box.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "1"
    name = f"cpus:{box.name}"
    with work_pool(box) as pool:
        worker = Worker(box, pool)
        try:
            until(lambda: worker.says(f"{box.name} is registered with"), 60, what="registration")
            patch(box, name, limit=0)
            until(lambda: worker.says(f"limit {name}: was lowered"), 30, what="a line about the lowered limit")
            holder = box.start(HOLDER, "dict(cpus=1, timeout=3)")
            holder.communicate(timeout=100)
            assert holder.returncode != 0
            assert (limit(box, name) or {})["limit"] == 0
            patch(box, name, limit=2)
            until(lambda: worker.says(f"no longer so: warning: limit {name}"), 30, what="a line about its return")
            assert box.run(ONCE.format(wanted="cpus=1")).strip() == "held"
            delete(box, name)
            until(lambda: limit(box, name) is not None, 30, what="the limit made again")
            until(lambda: worker.says(f"limit {name}: was deleted"), 30, what="a line about the deleted limit")
            assert worker.log.read_text().count(f"prefect-slots: warning: limit {name}: was lowered") == 1
        finally:
            worker.stop()
    box.assert_nothing_is_left()
