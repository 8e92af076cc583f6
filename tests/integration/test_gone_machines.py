"""Machines that are gone, on a real server: a name is taken over from a silent ledger, and machines can be removed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, work_pool

from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.naming import mirror_of

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.xdist_group("server")]

HOUR = 3600.0
DAY = 86400.0


@pytest.fixture
def plain(prefect_server: PrefectServer, tmp_path: Path) -> Box:
    return Box(tmp_path, prefect_server.url)


@pytest.fixture
def pool(plain: Box) -> Iterator[str]:
    with work_pool(plain) as name:
        yield name


def register(box: Box, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefect_slots", "register", "--json", *flags],
        env={**os.environ, **box.env, **more}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


def names(box: Box) -> set[str]:
    """Return the limits on the server, mirrors included, that belong to one machine."""
    found: set[str] = set()
    offset = 0
    while True:
        body = {"offset": offset, "limit": 200}
        page = httpx.post(f"{box.url}/v2/concurrency_limits/filter", json=body, timeout=30).json()
        found |= {limit["name"] for limit in page if box.name in limit["name"]}
        if len(page) < 200:
            return found
        offset += 200


def ledger_id(box: Box) -> str:
    return str(box.run_sql("SELECT value FROM meta WHERE key='ledger_id'")[0][0])


def test_an_empty_folder_takes_its_old_name_over_from_a_silent_claim_only(plain: Box, prefect_server: PrefectServer):
    # C27
    plain.register()
    former = ledger_id(plain)
    shutil.rmtree(plain.state)
    refused = register(plain)
    assert refused.returncode == 1
    told = json.loads(refused.stdout)
    assert (told["error"], told["theirs"]) == ("NameTaken", former)
    assert 0 < told["seconds_left"] <= 90
    assert "that happens by itself in" in told["message"]

    prefect_server.grow_old(plain.name, HOUR)
    taken = register(plain)
    assert taken.returncode == 0, taken.stdout
    assert json.loads(taken.stdout)["limits"]["claim"] == "adopted"
    assert not any(former in name for name in names(plain)), "a ledger that was only asleep would still get slots"
    assert {f"gpu-mem:{plain.name}:0", f"tag:gpu-mem:{plain.name}:0@{ledger_id(plain)}"} <= names(plain)


def test_a_silent_claim_that_no_worker_kept_is_left_to_another_host(plain: Box, prefect_server: PrefectServer):
    plain.register()
    prefect_server.grow_old(plain.name, HOUR)
    shutil.rmtree(plain.state)
    # Another host has other GPUs, too.
    plain.config.write_text(plain.config.read_text().replace("GPU-", "GPU-other-"))
    elsewhere = ["unshare", "-u", "sh", "-ec", 'hostname elsewhere; exec "$@"', "sh"]
    command = [*elsewhere, sys.executable, "-m", "prefect_slots", "register", "--json"]
    refused = subprocess.run(
        command, env={**os.environ, **plain.env}, capture_output=True, text=True, check=False, timeout=100
    )
    assert json.loads(refused.stdout)["error"] == "NameTaken"
    assert json.loads(refused.stdout)["seconds_left"] is None


def test_a_silent_ledger_that_holds_slots_keeps_its_name(plain: Box, prefect_server: PrefectServer):
    plain.register()

    async def hold() -> None:
        gateway = await Gateway.open(ledger_id(plain), url=prefect_server.url)
        lease = await gateway.occupy((f"cpus:{plain.name}",), 1, uuid4(), 60.0)
        prefect_server.grow_old(plain.name, HOUR)
        other = {"PREFECT_SLOTS_STATE_DIR": str(plain.state.parent / "other")}
        assert json.loads(register(plain, **other).stdout)["error"] == "NameTaken"
        await gateway.release(lease.id)
        await gateway.close()
        prefect_server.grow_old(plain.name, HOUR)
        assert register(plain, **other).returncode == 0

    asyncio.run(hold())


def test_a_pod_whose_worker_was_killed_goes_on_under_its_name(plain: Box, pool: str):
    # C27
    plain.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "1"
    first = Worker(plain, pool)
    until(lambda: first.says(f"{plain.name} is registered with"), 60, what="registration")
    former = ledger_id(plain)
    first.kill()
    shutil.rmtree(plain.state)
    second = Worker(plain, pool)
    try:
        until(lambda: second.says("waiting for a sign of life"), 60, what="the wait")
        until(lambda: second.says(f"{plain.name} is registered with"), 60, what="registration")
        assert not any(former in name for name in names(plain))
    finally:
        second.kill()


def test_a_second_worker_under_the_name_of_a_living_one_is_refused(plain: Box, pool: str):
    plain.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "1"
    first = Worker(plain, pool)
    try:
        until(lambda: first.says(f"{plain.name} is registered with"), 60, what="registration")
        refused = register(plain, PREFECT_SLOTS_STATE_DIR=str(plain.state.parent / "other"))
        assert json.loads(refused.stdout)["error"] == "NameTaken"
    finally:
        first.kill()


def test_machines_gone_for_long_are_shown_and_removed_with_everything_of_theirs(
    plain: Box, prefect_server: PrefectServer, tmp_path: Path
):
    # C27
    gone: list[Box] = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        gone.append(Box(folder, prefect_server.url))
    for box in gone:
        box.config.write_text(box.config.read_text().replace(box.matlab, plain.matlab))
        box.register()
    plain.register()

    # A server that forgot its leases while it counted on.
    left = [f"license:{plain.matlab}", f"license:{plain.matlab}:{gone[0].name}"]
    left += [mirror_of(name, ledger_id(gone[0])) for name in left]
    plain.send("POST", "v2/concurrency_limits/increment", {"names": left, "slots": 1, "mode": "concurrency"})
    assert plain.limits()
    for box, days in zip(gone, (40, 31, 29), strict=True):
        prefect_server.grow_old(box.name, days * DAY)
        prefect_server.grow_old(ledger_id(box), days * DAY)

    shown = json.loads(register(plain, "--prune", "--dry-run").stdout)["limits"]["gone"]
    ages = {each["machine"]: round(each["silent_seconds"] / DAY) for each in shown}
    assert ages == {gone[0].name: 40, gone[1].name: 31}
    assert f"cpus:{gone[0].name}" in shown[0]["limits"] + shown[1]["limits"]
    assert names(gone[0]), "a dry run removes nothing"

    done = register(plain, "--prune")
    assert done.returncode == 0, done.stdout
    assert {each["machine"] for each in json.loads(done.stdout)["limits"]["gone"]} == set(ages)
    for box in gone[:2]:
        assert names(box) == set()
    assert names(gone[2])
    assert plain.limits() == {}, "the slots that they left are taken off the fleet's limit"
    assert json.loads(register(plain, "--prune", "--dry-run").stdout)["limits"]["gone"] == []
    sooner = register(plain, "--prune", "--dry-run", PREFECT_SLOTS_FORGET_AFTER="20")
    assert [each["machine"] for each in json.loads(sooner.stdout)["limits"]["gone"]] == [gone[2].name]
