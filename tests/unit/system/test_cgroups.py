"""Limits of memory and cores, and kills for want of memory, on made-up trees of `/proc` and `/sys`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.system.cgroups import (
    Membership,
    ancestors,
    core_limit,
    memory_limit,
    oom_kills,
    parse_bytes,
    parse_cfs_quota,
    parse_cpu_max,
    parse_membership,
)

GIB = 2**30
NO_V1_LIMIT = "9223372036854771712\n"

Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make a root folder of files; each name is a path below it."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def v2(path: str, **files: str) -> dict[str, str]:
    """Files of a v2 machine; `a__memory_max` stands for `a/memory.max`."""
    limits = {f"sys/fs/cgroup/{n.replace('__', '/').replace('_max', '.max')}": text for n, text in files.items()}
    return {"proc/self/cgroup": f"0::{path}\n", **limits}


def test_a_machine_without_cgroups_has_no_limits(tree: Tree):
    root = tree({})
    assert (memory_limit(root), core_limit(root)) == (None, None)


def test_v2_limits_are_read_in_the_process_own_cgroup_and_not_at_the_mount_alone(tree: Tree):
    root = tree(v2("/a/b", a__b__memory_max=f"{8 * GIB}\n", a__b__cpu_max="250000 100000\n"))
    assert (memory_limit(root), core_limit(root)) == (8 * GIB, 2)


def test_v2_takes_the_smallest_limit_on_the_way_up(tree: Tree):
    root = tree(
        v2(
            "/a/b/c",
            a__b__c__memory_max="max\n",
            a__b__memory_max=f"{8 * GIB}\n",
            a__memory_max=f"{6 * GIB}\n",
            memory_max=f"{7 * GIB}\n",
            a__b__c__cpu_max="max 100000\n",
            a__b__cpu_max="600000 100000\n",
            a__cpu_max="150000 50000\n",
        )
    )
    assert (memory_limit(root), core_limit(root)) == (6 * GIB, 3)


@pytest.mark.parametrize("path", ["/host/only/path", "/../../elsewhere", "/"])
def test_a_container_that_sees_its_own_cgroup_at_the_mount_is_limited_by_it(tree: Tree, path: str):
    root = tree(v2(path, memory_max=f"{GIB}\n", cpu_max="100000 100000\n"))
    assert (memory_limit(root), core_limit(root)) == (GIB, 1)


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_v1_limits_are_read_in_each_controllers_own_tree(tree: Tree, mount: str):
    root = tree(
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/m/n\n1:name=systemd:/x\n0::/x\n",
            f"sys/fs/cgroup/{mount}/a/cpu.cfs_quota_us": "400000\n",
            f"sys/fs/cgroup/{mount}/a/cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us": "-1\n",
            f"sys/fs/cgroup/{mount}/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/m/n/memory.limit_in_bytes": NO_V1_LIMIT,
            "sys/fs/cgroup/memory/m/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_V1_LIMIT,
        }
    )
    assert (memory_limit(root), core_limit(root)) == (3 * GIB, 4)


def test_a_limit_that_cannot_be_understood_is_not_taken_for_none(tree: Tree):
    root = tree(v2("/", memory_max="plenty\n", cpu_max="lots\n"))
    with pytest.raises(ValueError, match="plenty"):
        memory_limit(root)
    with pytest.raises(ValueError, match=r"int\(\)"):
        core_limit(root)


def test_a_limit_that_cannot_be_read_is_not_taken_for_none(tree: Tree):
    root = tree(v2("/a"))
    # A folder in the place of the file: reading fails for every user, root included.
    (root / "sys/fs/cgroup/a/memory.max").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        memory_limit(root)


def test_membership_is_read_with_paths_that_hold_colons():
    text = "12:cpu,cpuacct:/x\n3:memory:/docker/a:b\n0::/init.scope\n"
    assert parse_membership(text) == Membership(
        unified="/init.scope",
        controllers={
            "cpu": ("cpu,cpuacct", "/x"),
            "cpuacct": ("cpu,cpuacct", "/x"),
            "memory": ("memory", "/docker/a:b"),
        },
    )


def test_a_membership_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="id:controllers:path: 'nonsense'"):
        parse_membership("nonsense\n")


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("1024\n", 1024), ("0\n", 0)])
def test_bytes(text: str, limit: int | None):
    assert parse_bytes(text) == limit


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("100000 100000", 1), ("50000 100000", 1), ("199999 100000", 1), ("800000 100000", 8)],
)
def test_a_v2_quota_is_whole_cores_rounded_down_but_at_least_one(text: str, cores: int | None):
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize("text", ["", "max", "100000", "100000 0", "a b"])
def test_a_v2_quota_of_another_shape_is_refused_unless_it_says_max(text: str):
    if text == "max":
        assert parse_cpu_max(text) is None
        return
    with pytest.raises(ValueError):
        parse_cpu_max(text)


@given(quota=st.integers(0, 10**9), period=st.integers(1, 10**6))
def test_both_versions_read_the_same_quota_alike_and_never_grant_more_than_it(quota: int, period: int):
    cores = parse_cfs_quota(f"{quota}\n", f"{period}\n")
    assert cores == parse_cpu_max(f"{quota} {period}\n")
    assert cores is not None
    assert cores == 1 or cores * period <= quota


def test_a_negative_v1_quota_is_no_limit():
    assert parse_cfs_quota("-1\n", "100000\n") is None


@given(parts=st.lists(st.sampled_from(["a", "b", "..", "c.slice"]), max_size=5))
def test_the_way_up_starts_inside_the_mount_and_ends_at_it(parts: list[str]):
    mount = Path("/sys/fs/cgroup")
    folders = list(ancestors(mount, "/" + "/".join(parts)))
    names = [part for part in parts if part != ".."]
    assert folders[0] == mount.joinpath(*names)
    assert folders[-1] == mount
    assert len(folders) == len(names) + 1


def test_the_nearest_cgroup_s_counter_is_read_else_the_host_s(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 5\n")
    assert oom_kills(tmp_path) == 5
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/worker.service\n")
    group = tmp_path / "sys/fs/cgroup/system.slice"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 9\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(tmp_path) == 2
    (group / "worker.service").mkdir()
    (group / "worker.service/memory.events").write_text("oom_kill 1\n")
    assert oom_kills(tmp_path) == 1
