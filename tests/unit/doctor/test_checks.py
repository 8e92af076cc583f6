"""Judging: every circumstance has its severity and a remedy, and a healthy machine has neither warning nor error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prefect_slots.doctor.checks import judge
from prefect_slots.doctor.facts import (
    Facts,
    Folder,
    LedgerFacts,
    LimitFacts,
    MirrorFacts,
    Names,
    OwnerFacts,
    StaleFacts,
    Versions,
)
from prefect_slots.ledger.queries import Enrolled
from prefect_slots.limits.client import ServerInfo
from prefect_slots.model.finding import Finding

VERSIONS = Versions(ours="0.1.0", client="3.8.8", fastapi="0.128.0", server="3.8.8", server_is_here=True)
FOLDER = Folder(path="/var/lib/slots", file_system="ext4", free_bytes=2**40, ballast=True)
ROW = Enrolled(
    lock_file="7",
    pid=7,
    started=0.0,
    boot="b",
    namespace="n",
    command=None,
    command_started=None,
    program="python train.py",
    grants=1,
    tickets=0,
    leases=2,
)
OWNER = OwnerFacts(row=ROW, dead=False, lock_file_missing=False)
ELSEWHERE = replace(OWNER, lock_file_missing=True, elsewhere=True)
LEDGER = LedgerFacts(id="L", machine="gpu-1", owners=(OWNER,))
SERVER = ServerInfo(url="http://localhost:4200/api", version="3.8.8", lease_storage="a.b.filesystem", database="sqlite")
LIMIT = LimitFacts(name="cpus:gpu-1", action="unchanged", old=8, new=8, active=3, mirror=3, least=3, most=3)
MIRROR = MirrorFacts(name="tag:cpus:gpu-1@old", active=0, holders=0, former=False)
STALE = StaleFacts(resource="license.aa", label="", used="3 seats", age=200.0, misses=5, why="no route to lic1")
CARD = StaleFacts(resource="gpu_mem", label="gpu 0 H200", used="", age=0.0, misses=3, why="did not answer within 20 s")
UNREAD = Finding(subject="x", problem="y", remedy="z", severity="error")
HEALTHY = Facts(
    versions=VERSIONS,
    settings="/etc/prefect-slots.toml",
    mode="both",
    names=Names(setting="gpu-1", worker_id="gpu-1", registered="gpu-1"),
    folder=FOLDER,
    ledger=LEDGER,
    server=SERVER,
    claimed=True,
    limits=(LIMIT,),
    gpus=("H200", "H200"),
    cuda_device_order="PCI_BUS_ID",
)


def with_ledger(**changes: Any) -> Facts:
    return replace(HEALTHY, ledger=replace(LEDGER, **changes))


def with_limit(**changes: Any) -> Facts:
    return replace(HEALTHY, limits=(replace(LIMIT, **changes),))


def with_versions(**changes: Any) -> Facts:
    return replace(HEALTHY, versions=replace(VERSIONS, **changes))


def with_folder(**changes: Any) -> Facts:
    return replace(HEALTHY, folder=replace(FOLDER, **changes))


def with_mirror(**changes: Any) -> Facts:
    return replace(HEALTHY, mirrors=(replace(MIRROR, **changes),))


def test_a_healthy_machine_is_all_ok():
    assert {finding.severity for finding in judge(HEALTHY)} == {"ok"}


@pytest.mark.parametrize(
    ("facts", "severity", "about", "words"),
    [
        (with_versions(client=None), "error", "versions", "not installed"),
        (with_versions(client="3.6.19", server=None), "error", "versions", "not supported"),
        (with_versions(client="4.0.0", server=None), "error", "versions", "not supported"),
        (with_versions(server="3.8.7"), "info", "versions", "older"),
        (with_versions(fastapi="0.151.0"), "warning", "versions", "fastapi 0.151.0"),
        (replace(HEALTHY, names=Names(setting="b", worker_id=None, registered="a")), "warning", "name", "'b'"),
        (replace(HEALTHY, names=Names(setting="a", worker_id="b", registered="a")), "info", "name", "WORKER_ID"),
        (with_folder(free_bytes=2**20), "error", "state folder", "full"),
        (with_folder(free_bytes=20 * 2**20), "warning", "state folder", "only 20 MiB"),
        (with_folder(ballast=False), "warning", "state folder", "ballast"),
        (replace(with_folder(ballast=None), ledger=None), "warning", "ledger", "not registered"),
        (with_ledger(machine=None), "warning", "ledger", "not registered"),
        (with_ledger(changed=("cpus", "mem")), "warning", "ledger", "cpus, mem"),
        (with_ledger(owners=(replace(OWNER, dead=True),)), "warning", "processes", "left 1 grant, 0 tickets, 2 leases"),
        (with_ledger(owners=(replace(OWNER, lock_file_missing=True),)), "warning", "processes", "lock file is gone"),
        (with_ledger(owners=(ELSEWHERE,)), "warning", "processes", "nothing here tells whether it runs"),
        (with_ledger(stranded=("train.py",)), "warning", "waiting", "train.py is stranded"),
        (with_ledger(stale=(STALE,)), "warning", "others' use of license.aa", "3 seats, told 3 min ago, stands"),
        (with_ledger(stale=(CARD,)), "warning", "others' use of gpu 0 H200", "nobody has ever told; nobody"),
        (with_ledger(unbacked=("train.py",)), "warning", "grants", "train.py goes on"),
        (replace(HEALTHY, cuda_device_order=None), "info", "cards", "CUDA_DEVICE_ORDER is not set"),
        (replace(HEALTHY, cuda_device_order=None, gpus=("A", "B")), "warning", "cards", "by speed"),
        (replace(HEALTHY, mode="off", server=None, limits=None), "warning", "server", "granted at once"),
        (replace(HEALTHY, mode="local", server=None, limits=None), "info", "server", "alone"),
        (replace(HEALTHY, server=replace(SERVER, lease_storage="a.memory")), "warning", "leases", "after its restart"),
        (replace(HEALTHY, server=replace(SERVER, lease_storage="a.memory")), "info", "leases", "several servers"),
        (replace(HEALTHY, server=replace(SERVER, lease_storage=None)), "info", "leases", "does not tell"),
        (replace(HEALTHY, claimed=False), "warning", "name on the server", "nobody"),
        (with_limit(action="create", old=None, active=0, mirror=None, least=0), "error", "limit", "missing"),
        (with_limit(action="change", old=4), "warning", "limit", "is 4 on the server, this machine has 8"),
        (with_limit(action="conflict", problem="it is off; enable it"), "error", "limit", "it is off"),
        (with_limit(action="orphaned", new=None), "info", "limit", "belongs to nothing"),
        (with_limit(mirror=None, active=0, least=0), "error", "limit", "no mirror"),
        (with_limit(mirror=2, active=2), "error", "limit", "counts 2 of this machine's slots, which holds 3"),
        (with_limit(active=2), "error", "limit", "counts 2 of this machine's slots, which holds 3"),
        (with_limit(mirror=5, active=5), "warning", "limit", "counts 5 slots of this machine, which holds 3"),
        (with_limit(active=7, others=2), "info", "limit", "2 of 8 slots are held by others than prefect-slots"),
        (with_mirror(former=True, active=2), "warning", "mirror", "nobody gives them back"),
        (with_mirror(former=True), "info", "mirror", "former ledger"),
        (with_mirror(active=2), "info", "mirror", "another machine's ledger counts 2"),
        (replace(HEALTHY, troubles=(UNREAD,)), "error", "x", "y"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(facts: Facts, severity: str, about: str, words: str):
    matching = [each for each in judge(facts) if each.subject.startswith(about) and words in each.problem]
    assert [each.severity for each in matching] == [severity]
    if severity in ("warning", "error"):
        assert matching[0].remedy


def test_what_is_on_its_way_is_no_drift():
    assert not replace(LIMIT, active=3, mirror=3, least=2, most=5).drifts
    assert replace(LIMIT, active=3, mirror=3, least=4, most=5).drifts
    assert replace(LIMIT, active=3, mirror=3, least=1, most=2).drifts


def test_what_was_not_looked_at_is_not_judged():
    facts = Facts(versions=Versions(ours="0.1.0", client="3.8.8", fastapi=None))
    assert [finding.subject for finding in judge(facts)] == ["versions"]


def test_the_remedy_of_a_conflict_is_its_own():
    facts = with_limit(action="conflict", problem="it is switched off, so it counts nothing; when idle, enable it")
    found = next(each for each in judge(facts) if each.subject == "limit cpus:gpu-1")
    assert found.problem == "it is switched off, so it counts nothing"
    assert found.remedy == "when idle, enable it"
