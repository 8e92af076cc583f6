"""The kind of file system below a folder, by the mounts that the kernel lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_slots.system.mounts import file_system, parse_mounts

MOUNTS = r"""
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
30 22 0:26 / /sys rw,nosuid - sysfs sysfs rw
48 22 0:45 / /home rw,relatime shared:25 - nfs4 server:/export/home rw,vers=4.2
49 48 0:46 / /home/local rw - xfs /dev/sdb1 rw
50 22 0:47 / /mnt/two\040words\134back rw shared:30 master:2 - cifs //server/share rw
51 22 0:48 / /srv/données rw - fuse.sshfs host:/data rw
52 22 0:49 / /auto rw - autofs systemd-1 rw
53 52 0:50 / /auto rw - nfs server:/auto rw
not a mount at all
60 22 0:51 / /half -
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x", "ext4"),
        ("/home/me/.local/state", "nfs4"),
        ("/home/local/me", "xfs"),
        ("/homestead", "ext4"),
        (r"/mnt/two words\back/x", "cifs"),
        ("/srv/données/x", "fuse.sshfs"),
        ("/auto/x", "nfs"),
    ],
)
def test_the_innermost_and_latest_mount_tells_the_file_system(path: str, kind: str) -> None:
    assert file_system(Path(path), parse_mounts(MOUNTS)) == kind


def test_the_root_and_mounts_in_memory_are_told() -> None:
    mounts = parse_mounts("28 1 254:0 / / rw - ext4 /dev/vda rw\n31 28 0:30 / /dev/shm rw - tmpfs tmpfs rw\n")
    kinds = [file_system(Path(path), mounts) for path in ("/", "/dev/shm", "/dev/shm/x", "/dev/shmx")]
    assert kinds == ["ext4", "tmpfs", "tmpfs", "ext4"]


def test_of_two_mounts_on_a_folder_below_another_the_later_counts() -> None:
    lines = ("41 28 0:41 / /net rw - nfs4 f:/e rw", "42 41 0:42 / /net/fast rw - ext4 /dev/sdc rw")
    mounts = parse_mounts("\n".join((*lines, "43 28 0:43 / /net/fast rw - xfs /dev/sdd rw")))
    assert [file_system(Path(path), mounts) for path in ("/net/x", "/net/fast")] == ["nfs4", "xfs"]


def test_without_mounts_nothing_is_known() -> None:
    assert file_system(Path("/anywhere"), {}) is None


@settings(deadline=None)
@given(text=st.text())
def test_any_text_is_read_without_an_error(text: str):
    assert set(parse_mounts(text).values()) <= set(text.split())
