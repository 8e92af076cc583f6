"""`doctor` on a real ledger and a real server: each broken thing is found with its remedy, some are mended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from tests.support.boxes import Box, line
from tests.support.http_stub import Reply, http_stub
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Puppet, SharedMachine

from prefect_slots.cli.machine import open_ledger
from prefect_slots.limits.naming import mirror_of
from prefect_slots.settings import load_settings

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]

HOLDER = """
    import sys
    from prefect_slots import requires
    with requires(gpu_mem=8):
        print("{}", flush=True)
        sys.stdin.readline()
"""


class Diagnosis:
    """What one run of the command printed."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in done.stderr, done.stderr
        self.code = done.returncode
        self.data: dict[str, Any] = json.loads(done.stdout)

    def about(self, about: str, severity: str) -> list[dict[str, str]]:
        return [each for each in self.data["findings"] if (each["about"], each["severity"]) == (about, severity)]

    def one(self, about: str, severity: str) -> str:
        """Return what was found; there must be a remedy unless it is a note."""
        found = self.about(about, severity)
        assert len(found) == 1, self.data
        assert found[0]["remedy"] or severity == "note"
        return found[0]["found"]

    @property
    def wrong(self) -> list[tuple[str, str]]:
        """What is no remark, but for the leases in memory that all servers of these tests have."""
        found = [(each["about"], each["severity"]) for each in self.data["findings"]]
        return [each for each in found if each[1] in ("warning", "error") and each != ("leases", "warning")]


def doctor(settings: dict[str, str], *arguments: str, **env: str) -> Diagnosis:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "WORKER_ID"))}
    command = [sys.executable, "-m", "prefect_slots", "doctor", "-o", "json", *arguments]
    whole = {**clean, **settings, **env}
    return Diagnosis(subprocess.run(command, env=whole, capture_output=True, text=True, timeout=100, check=False))


def at_server(server: PrefectServer, work: Callable[[PrefectClient], Awaitable[object]]) -> None:
    async def ask() -> None:
        async with server.client() as client:
            await work(client)

    asyncio.run(ask())


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Box:
    made = Box(tmp_path, prefect_server.url)
    made.register()
    return made


def ledger_id(box: Box) -> str:
    ledger = open_ledger(load_settings(env=box.env))
    ledger.close()
    return ledger.id


def test_a_registered_machine_is_well(box: Box):
    found = doctor(box.env)
    assert (found.code, found.wrong) == (0, [])
    assert "prefect.server" not in found.one("leases", "warning")
    assert box.url is not None
    assert box.url in next(each["found"] for each in found.data["findings"] if each["about"] == "server")


def test_a_machine_without_ledger_and_server_is_told_to_register(tmp_path: Path):
    machine = SharedMachine(tmp_path)
    found = doctor(machine.settings)
    assert found.code == 0
    assert "not registered" in found.one("ledger", "warning")
    assert "alone" in found.one("server", "note")
    assert not list(machine.state.glob("ledger*"))


def test_a_server_that_is_away_is_an_error_and_the_rest_is_looked_at(box: Box, unused_port: int):
    found = doctor(box.env, PREFECT_API_URL=f"http://127.0.0.1:{unused_port}/api")
    assert found.code == 1
    assert "none answers" in found.one("server", "error")
    assert found.wrong == [("server", "error")]
    assert found.about("ledger", "ok")


def test_a_server_that_refuses_us_is_told_apart(tmp_path: Path):
    async def scenario() -> Diagnosis:
        async with http_stub() as stub:
            refusal = Reply(status=401, body={"detail": "Unauthorized"})
            stub.script("GET /api/admin/version", refusal)
            box = Box(tmp_path, stub.url)
            return await asyncio.to_thread(doctor, box.env)

    found = asyncio.run(scenario())
    assert found.code == 1
    assert "refuses to let us in" in found.one("server", "error")


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""], ids=["garbage", "empty"])
def test_a_corrupt_ledger_is_an_entry_and_no_traceback(tmp_path: Path, content: bytes):
    machine = SharedMachine(tmp_path)
    machine.state.mkdir()
    (machine.state / "ledger.sqlite3").write_bytes(content)
    found = doctor(machine.settings)
    if content:
        assert found.code == 1
        assert "cannot be read as a ledger" in found.one("ledger", "error")
        assert doctor(machine.settings, "--fix").code == 1
    else:
        assert "not registered" in found.one("ledger", "warning")


def test_wrong_settings_are_an_entry(tmp_path: Path):
    machine = SharedMachine(tmp_path, "[settings]\nworkr = 'x'\n")
    found = doctor(machine.settings)
    assert found.code == 1
    assert "workr" in found.one("settings", "error")
    missing = doctor(machine.settings, "--config", str(tmp_path / "nowhere.toml"))
    assert "nowhere.toml" in missing.one("settings", "error")


def test_limits_that_were_tampered_with_are_told(box: Box, prefect_server: PrefectServer):
    name, ledger = box.name, ledger_id(box)

    async def tamper(client: PrefectClient) -> None:
        await client.delete_global_concurrency_limit_by_name(f"mem:{name}")
        await client.delete_global_concurrency_limit_by_name(mirror_of(f"scanner:{name}", ledger))
        update = client.update_global_concurrency_limit
        await update(f"cpus:{name}", GlobalConcurrencyLimitUpdate(active=False))
        await update(f"gpu-mem:{name}:0", GlobalConcurrencyLimitUpdate(slot_decay_per_second=1.0))
        await update(f"license:{box.matlab}", GlobalConcurrencyLimitUpdate(limit=1))

    at_server(prefect_server, tamper)
    found = doctor(box.env)
    assert found.code == 1
    assert "missing" in found.one(f"limit mem:{name}", "error")
    assert "no mirror" in found.one(f"limit scanner:{name}", "error")
    assert "switched off" in found.one(f"limit cpus:{name}", "warning")
    assert "decay" in found.one(f"limit gpu-mem:{name}:0", "error")
    assert "lowered" in found.one(f"limit license:{box.matlab}", "warning")
    assert len(found.wrong) == 5


@pytest.mark.slow
def test_a_name_that_another_ledger_has_is_an_error_until_it_is_taken_over(
    box: Box, prefect_server: PrefectServer, tmp_path: Path
):
    other = {**box.env, "PREFECT_SLOTS_STATE_DIR": str(tmp_path / "other")}
    found = doctor(other)
    assert found.code == 1
    assert box.name in found.one("name on the server", "error")

    former = ledger_id(box)
    license_limit = f"license:{box.matlab}"

    async def leak(client: PrefectClient) -> None:
        names = [license_limit, mirror_of(license_limit, former)]
        await client.increment_concurrency_slots(names=names, slots=2, mode="concurrency")

    at_server(prefect_server, leak)
    adopt = [sys.executable, "-m", "prefect_slots", "register", "--adopt", "--json"]
    subprocess.run(adopt, env={**os.environ, **other}, check=True, capture_output=True)
    mirror = f"mirror {mirror_of(license_limit, former)}"
    found = doctor(other)
    assert found.wrong == [(mirror, "warning")]
    assert "counts 2 slots" in found.one(mirror, "warning")
    mended = doctor(other, "--fix")
    assert (mended.code, mended.wrong) == (0, [])
    assert [each["about"] for each in mended.data["mended"]] == [mirror]
    assert box.active() == {}


@pytest.mark.slow
def test_slots_counted_for_nobody_are_found_and_mended_and_others_are_left_alone(
    box: Box, prefect_server: PrefectServer
):
    name, ledger = box.name, ledger_id(box)

    async def leak(client: PrefectClient) -> None:
        ours = [f"cpus:{name}", mirror_of(f"cpus:{name}", ledger)]
        await client.increment_concurrency_slots(names=ours, slots=2, mode="concurrency")
        await client.increment_concurrency_slots(names=["scanner:" + name], slots=1, mode="concurrency")

    at_server(prefect_server, leak)
    found = doctor(box.env)
    assert found.code == 0
    assert found.wrong == [(f"limit cpus:{name}", "warning")]
    assert "counts 2 slots of this machine, which holds 0" in found.one(f"limit cpus:{name}", "warning")
    assert "1 of 1 slots are held by others" in found.one(f"limit scanner:{name}", "note")
    mended = doctor(box.env, "--fix")
    assert mended.wrong == []
    assert [each["about"] for each in mended.data["mended"]] == [f"limit cpus:{name}"]
    assert box.active() == {f"scanner:{name}": 1}


@pytest.mark.slow
def test_the_dead_are_found_and_buried_and_the_living_are_not_disturbed(box: Box):
    living, dead = box.start(HOLDER), box.start(HOLDER)
    try:
        line(living)
        line(dead)
        before = box.active()
        living.send_signal(signal.SIGSTOP)  # or it could bury the dead before they are found
        dead.kill()
        dead.wait(30)
        found = doctor(box.env)
        assert f"process {dead.pid}" in found.one("processes", "warning")
        mended = doctor(box.env, "--fix")
        assert mended.wrong == []
        assert [each["about"] for each in mended.data["mended"]] == ["processes"]
        assert box.active() == {limit: slots // 2 for limit, slots in before.items()}
    finally:
        for process in (living, dead):
            process.kill()
            process.communicate(timeout=30)


@pytest.mark.slow
def test_slots_that_are_held_and_not_counted_are_an_error_until_they_are_counted_again(
    box: Box, prefect_server: PrefectServer
):
    limit, ledger = f"gpu-mem:{box.name}", ledger_id(box)
    holder = box.start(HOLDER)

    async def erase(client: PrefectClient) -> None:
        for name in (limit, mirror_of(limit, ledger)):
            await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))

    try:
        line(holder)
        before = box.active()
        holder.send_signal(signal.SIGSTOP)  # or it could mend it before it is found
        at_server(prefect_server, erase)
        found = doctor(box.env)
        assert found.code == 1
        assert "counts 0 of this machine's slots, which holds 8192" in found.one(f"limit {limit}", "error")
        mended = doctor(box.env, "--fix")
        assert (mended.code, mended.wrong) == (0, [])
        assert box.active() == before
    finally:
        holder.kill()
        holder.communicate(timeout=30)


def test_odd_things_of_a_machine_without_a_server(tmp_path: Path):
    machine = SharedMachine(tmp_path)
    with Puppet(machine) as puppet:
        assert "granted" in puppet.enter(gpu_mem=1)
        (lock,) = (machine.state / "owners").glob("*.lock")
        lock.unlink()
        with closing(sqlite3.connect(machine.state / "ledger.sqlite3", isolation_level=None)) as connection:
            connection.execute("UPDATE cell SET foreign_use=20000 WHERE resource='gpu_mem'")
        with Puppet(machine) as waiter:
            waiter.ask(gpu_mem=20)
            machine.waiting(1)
            (machine.state / "ballast").unlink()
            found = doctor(machine.settings, PREFECT_SLOTS_WORKER="other")
            assert found.code == 0
            assert "ballast" in found.one("state folder", "warning")
            assert f"process {puppet.process.pid}" in found.one("processes", "warning")
            assert "stranded" in found.one("waiting", "warning")
            assert "'other'" in found.one("name", "warning")
            assert "CUDA_DEVICE_ORDER" in found.one("cards", "note")
            waiter.kill()
        found = doctor(machine.settings, "--fix", CUDA_DEVICE_ORDER="PCI_BUS_ID")
        assert ("waiting", "warning") not in found.wrong
        assert not found.about("cards", "note")
    until(lambda: machine.count("ticket") == 0, what="no ticket")


def test_a_person_sees_a_table_and_the_help_has_examples(tmp_path: Path):
    machine = SharedMachine(tmp_path)
    command = [sys.executable, "-m", "prefect_slots", "doctor"]
    shown = subprocess.run(command, env={**machine.env, "COLUMNS": "200"}, capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert "prefect-slots register" in shown.stdout
    assert "0 errors, " in shown.stdout
    shown = subprocess.run([*command, "--help"], env=machine.env, capture_output=True, text=True, check=True)
    assert "prefect-slots doctor --fix" in shown.stdout
