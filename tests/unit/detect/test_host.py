"""Cores and memory on made-up trees of `/proc` and `/sys`, and what declarations make of them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from tests.unit.system.test_cgroups import v2
from tests.unit.system.test_container import put

from prefect_slots.detect.host import interpret_host, query_cores, query_memory
from prefect_slots.model.declaration import HostRules
from prefect_slots.model.resource import Cell, Resource


def test_memory_is_the_smaller_of_the_hosts_and_the_limit_in_whole_mib(tmp_path: Path):
    host = psutil.virtual_memory().total
    assert query_memory(put(tmp_path, {})) == host // 2**20
    assert query_memory(put(tmp_path, v2("/", memory_max=f"{100 * 2**20 + 5}\n"))) == 100
    assert query_memory(put(tmp_path, v2("/", memory_max=f"{host * 2}\n"))) == host // 2**20


def test_cores_are_the_smaller_of_the_affinity_and_the_quota(tmp_path: Path):
    affinity = len(os.sched_getaffinity(0))
    assert query_cores(put(tmp_path, {})) == affinity
    assert query_cores(put(tmp_path, v2("/", cpu_max="100000 100000\n"))) == 1
    assert query_cores(put(tmp_path, v2("/", cpu_max=f"{(affinity + 3) * 100000} 100000\n"))) == affinity


def judge(rules: HostRules, cores: int | Exception = 8, memory: int | Exception = 65536):
    def give(value: int | Exception) -> int:
        if isinstance(value, Exception):
            raise value
        return value

    return interpret_host(rules, "slots.toml", lambda: give(cores), lambda: give(memory))


def resource(name: str, unit: str, capacity: int, origin: str) -> Resource:
    return Resource(name=name, unit=unit, cells=(Cell(key="0", capacity=capacity),), origin=origin)


def test_what_is_detected_is_offered_less_the_headroom():
    answer = judge(HostRules(mem_headroom_mib=4096))
    assert answer.resources == (resource("cpus", "cores", 8, "host"), resource("mem", "MiB", 61440, "host"))
    assert (answer.findings, answer.unknown) == ((), set())


def test_what_is_declared_wins_and_says_where_it_is_from():
    answer = judge(HostRules(cpus=6, mem_mib=32768, mem_headroom_mib=1024))
    assert answer.resources == (resource("cpus", "cores", 6, "slots.toml"), resource("mem", "MiB", 31744, "slots.toml"))
    assert answer.findings == ()


def test_more_than_there_is_may_be_declared_and_is_told():
    answer = judge(HostRules(cpus=16, mem_mib=131072))
    assert [r.capacity for r in answer.resources] == [16, 131072]
    assert [(f.severity, f.subject, f.problem) for f in answer.findings] == [
        ("warning", "cpus", "declared 16 cores, but this process may use 8 cores"),
        ("warning", "mem", "declared 128GiB, but this process may use 64GiB"),
    ]


def test_a_headroom_that_leaves_nothing_is_an_error_and_no_resource():
    answer = judge(HostRules(mem_headroom_mib=65536))
    assert [r.name for r in answer.resources] == ["cpus"]
    assert [(f.severity, f.problem) for f in answer.findings] == [("error", "headroom 64GiB leaves nothing of 64GiB")]
    assert answer.unknown == set()


def test_what_cannot_be_detected_is_unknown_and_loses_nothing_else():
    answer = judge(HostRules(), cores=OSError("no cgroup"))
    assert ([r.name for r in answer.resources], answer.unknown) == (["mem"], {"cpus"})
    (finding,) = answer.findings
    assert (finding.severity, finding.subject, finding.problem) == ("error", "cpus", "cannot be detected: no cgroup")
    assert "set cpus under [host]" in finding.remedy


def test_what_cannot_be_detected_but_is_declared_is_known():
    answer = judge(HostRules(mem_mib=1024), memory=ValueError("plenty"))
    assert ([r.capacity for r in answer.resources], answer.unknown) == ([8, 1024], set())
    assert [(f.severity, f.problem) for f in answer.findings] == [("info", "cannot be detected: plenty")]
