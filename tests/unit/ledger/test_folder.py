"""The state folder: which ones are fit to hold a ledger, and who may use it."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.processes import ROOT, member

from prefect_slots.errors import StateFolderUnsuitable
from prefect_slots.ledger.folder import default_folders, find_folder, open_folder

NOT_LOCAL = (
    "nfs", "nfs4", "cifs", "fuse.sshfs", "lustre", "9p", "virtiofs", "fuse.juicefs", "fuse.mountpoint-s3",
    "fuse.blobfuse2", "fuse.cephfs", "fuse.gpfs", "vboxsf", "prl_fs", "cvfs", "fuse", "autofs", "made-up-tomorrow",
)  # fmt: skip


@pytest.mark.parametrize("kind", NOT_LOCAL)
def test_a_file_system_that_is_not_known_to_be_local_is_refused_and_nothing_is_made(tmp_path: Path, kind: str) -> None:
    # C22
    wanted = tmp_path / "state"
    with pytest.raises(StateFolderUnsuitable, match=f"file system \\({kind}\\) is not known to be local") as caught:
        open_folder(wanted, {"/": "ext4", str(tmp_path.resolve()): kind})
    assert caught.value.path == str(wanted.resolve())
    assert not wanted.exists()
    assert f"PREFECT_SLOTS_TRUST_FILE_SYSTEM={kind}, at the risk of a corrupt ledger" in str(caught.value)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"])
def test_a_local_file_system_is_taken(tmp_path: Path, kind: str) -> None:
    assert open_folder(tmp_path / "state", {"/": "nfs4", str(tmp_path.resolve()): kind}).is_dir()


def test_a_folder_that_no_mount_tells_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateFolderUnsuitable, match="unknown"):
        open_folder(tmp_path / "state", {})


def test_only_the_file_system_that_is_trusted_by_name_counts_as_local(tmp_path: Path) -> None:
    with pytest.raises(StateFolderUnsuitable, match="virtiofs"):
        open_folder(tmp_path / "state", {"/": "virtiofs"}, trusted="fuse.juicefs")
    assert open_folder(tmp_path / "state", {"/": "virtiofs"}, trusted="virtiofs").is_dir()


# A mount of this test's own in place of the kernel's list: such file systems cannot be mounted here.
ELSEWHERE = """
sed 's/ - [^ ]* / - virtiofs /' /proc/self/mountinfo > "$1/mountinfo"
mount --bind "$1/mountinfo" /proc/$$/mountinfo
exec "$2" -m prefect_slots $3
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_commands_refuse_such_a_file_system_unless_it_is_trusted_and_the_doctor_warns_of_it(tmp_path: Path) -> None:
    # C22
    def command(words: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PREFECT_SLOTS_STATE_DIR": str(tmp_path / "state"), "PREFECT_SLOTS_COORDINATION": "local"}
        shell = ["unshare", "-m", "sh", "-ec", ELSEWHERE, "sh", str(tmp_path), sys.executable, words]
        return subprocess.run(
            shell, env=env | more, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )

    refused = command("status")
    assert (refused.returncode, (tmp_path / "state").exists()) == (1, False)
    assert "virtiofs" in refused.stderr
    assert "PREFECT_SLOTS_TRUST_FILE_SYSTEM=virtiofs" in refused.stderr
    assert command("run --cpus 1 -- true").returncode == 125
    trusting = {"PREFECT_SLOTS_TRUST_FILE_SYSTEM": "virtiofs"}
    assert command("run --cpus 1 -- true", **trusting).returncode == 0
    assert "virtiofs is not known to be local" in command("doctor --json", **trusting).stdout


def test_a_link_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    with pytest.raises(StateFolderUnsuitable, match="nfs"):
        open_folder(tmp_path / "near", {str((tmp_path / "far").resolve()): "nfs"})


def test_a_new_folder_is_the_owner_s_alone(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "a" / "b")
    assert folder.is_absolute()
    assert {stat.S_IMODE(part.stat().st_mode) for part in (folder, folder / "owners", folder / "wake")} == {0o700}


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFolderUnsuitable, match="Not a directory"):
        open_folder(tmp_path / "file" / "state")
    with pytest.raises(StateFolderUnsuitable, match="File exists"):
        open_folder(tmp_path / "file")


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that a group shares, with a path short enough for AF_UNIX sockets."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "shared"
        folder.mkdir()
        folder.chmod(0o2770)
        yield folder


@pytest.mark.usefixtures("usual_umask")
def test_in_a_shared_folder_everything_is_the_group_s(shared: Path) -> None:
    with member(shared):
        for part in (shared / "owners", shared / "wake"):
            assert stat.S_IMODE(part.stat().st_mode) == 0o2770
        files = [path for path in shared.rglob("*") if not path.is_dir()]
        assert len(files) >= 5, "the ledger, its two companions, a lock and a socket"
        not_for_group = [path.name for path in files if path.stat().st_mode & 0o060 != 0o060]
        assert not not_for_group


SECOND_USER = """
import os, sys
from pathlib import Path
from tests.support.processes import member
os.setgroups([4242]); os.setgid(4243); os.setuid(4244)
with member(Path(sys.argv[1])) as (ledger, owner):
    others = ledger.read(lambda tx: tx.all("SELECT pid FROM owner WHERE id<>?", owner.id))
    print(len(others), ledger.read(lambda tx: tx.dead_owners()))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a second user")
@pytest.mark.usefixtures("usual_umask")
def test_a_second_user_of_the_group_takes_part(shared: Path) -> None:
    os.chown(shared, 0, 4242)
    shared.chmod(0o2770)
    with member(shared):
        command = [sys.executable, "-c", SECOND_USER, str(shared)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "1 []", done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_else_s_folder_is_refused_unless_shared_on_purpose(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o777)
    os.chown(folder, 4244, 4242)
    with pytest.raises(StateFolderUnsuitable, match="uid 4244"):
        open_folder(folder)
    folder.chmod(0o2777)
    assert open_folder(folder) == folder.resolve()


@pytest.mark.parametrize(
    ("env", "folders"),
    [
        # C21: shells of one user differ in these variables.
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, ["/h/.local/state/prefect-slots", "/var/tmp/prefect-slots-0"]),
        ({"HOME": "/h"}, ["/h/.local/state/prefect-slots", "/var/tmp/prefect-slots-0"]),
        ({}, [f"{pwd.getpwuid(0).pw_dir}/.local/state/prefect-slots", "/var/tmp/prefect-slots-0"]),
        (
            {"XDG_STATE_HOME": "/s"},
            [f"{pwd.getpwuid(0).pw_dir}/.local/state/prefect-slots", "/var/tmp/prefect-slots-0"],
        ),
        ({"HOME": "relative"}, ["/var/tmp/prefect-slots-0"]),
    ],
)
def test_default_folders(env: dict[str, str], folders: list[str]) -> None:
    assert [str(folder) for folder in default_folders(env, 0)] == folders


def test_a_user_without_a_home_has_a_folder_all_the_same() -> None:
    assert [str(folder) for folder in default_folders({}, 4_000_123)] == ["/var/tmp/prefect-slots-4000123"]


def test_a_default_that_is_unfit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    local = tmp_path / "local"
    defaults = (tmp_path / "file" / "state", local)
    monkeypatch.setattr("prefect_slots.ledger.folder.default_folders", lambda *_: defaults)
    assert find_folder(None, {}) == local.resolve()
    local.joinpath("owners").rmdir()
    local.joinpath("wake").rmdir()
    local.rmdir()
    local.write_text("")
    with pytest.raises(StateFolderUnsuitable, match="Not a directory"):
        find_folder(None, {})


def test_a_configured_folder_that_is_unfit_is_never_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFolderUnsuitable, match="PREFECT_SLOTS_STATE_DIR"):
        find_folder(tmp_path / "file" / "state", {"HOME": str(tmp_path)})
