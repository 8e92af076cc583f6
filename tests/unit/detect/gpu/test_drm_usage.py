"""What is used of AMD's and Intel's cards: made-up trees of sysfs and /proc, and whose memory that makes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.detect.gpu.test_amd import ONE, TWO
from tests.unit.detect.gpu.test_amd import plug as plug_amd
from tests.unit.detect.gpu.test_intel import plug as plug_intel
from tests.unit.system.test_container import link, put

from prefect_slots.detect.gpu.drm_usage import Client, parse_fdinfo, query_drm_use
from prefect_slots.detect.gpu.usage import DeviceUse, ForeignUse, foreign_use
from prefect_slots.system.container import Surroundings

GIB, MIB = 2**30, 2**20
ARC = "0000:03:00.0"
AMDGPU = """pos:	0
flags:	02100002
mnt_id:	26
ino:	638
drm-driver:	amdgpu
drm-client-id:	{client}
drm-pdev:	0000:03:00.0
pasid:	32770
drm-total-vram:	999999 KiB
drm-shared-vram:	0
drm-memory-vram:	{kib} KiB
drm-memory-gtt: 	2048 KiB
drm-memory-cpu: 	0 KiB
drm-engine-gfx:	1000 ns
"""
I915 = """drm-driver:	i915
drm-pdev:	0000:03:00.0
drm-client-id:	{client}
drm-total-system0:	8 MiB
drm-resident-system0:	8 MiB
drm-total-local0:	4096 MiB
drm-resident-local0:	{mib} MiB
"""
XE = """drm-driver:	xe
drm-client-id:	7
drm-resident-gtt:	1 MiB
drm-resident-vram0:	10 MiB
drm-resident-vram1:	20 MiB
"""


def plug(root: Path, number: int = 0, used: str | None = f"{20 * GIB}\n") -> None:
    files = {} if used is None else {"mem_info_vram_used": used}
    card = (ONE, TWO)[number]
    plug_amd(root, number, card.address, mem_info_vram_total=str(card.total), unique_id=card.unique_id, **files)


def opened(root: Path, pid: int, descriptor: int, text: str, node: str = "renderD128") -> None:
    link(root / f"proc/{pid}/fd/{descriptor}", f"/dev/dri/{node}")
    put(root, {f"proc/{pid}/fdinfo/{descriptor}": text})


def computes(root: Path, pid: int, gpu: str, used: str) -> None:
    put(root, {f"sys/class/kfd/kfd/proc/{pid}/vram_{gpu}": used, f"sys/class/kfd/kfd/proc/{pid}/pasid": "32770\n"})


def kfd(root: Path) -> None:
    nodes = "sys/class/kfd/kfd/topology/nodes"
    put(root, {f"{nodes}/0/gpu_id": "0\n", f"{nodes}/0/properties": "simd_count 0\ndrm_render_minor 0\n"})
    for number, gpu in enumerate(("4711", "4712")):
        words = f"simd_count 416\ndrm_render_minor {128 + number}\nlocation_id 768\n"
        put(root, {f"{nodes}/{number + 1}/gpu_id": f"{gpu}\n", f"{nodes}/{number + 1}/properties": words})
    (root / "sys/class/kfd/kfd/proc").mkdir()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def use(root: Path, *keys: str) -> tuple[DeviceUse, ...]:
    return query_drm_use(root, keys or (ONE.key, TWO.key, f"INTEL-{ARC}"))


def test_a_process_is_told_with_what_is_on_the_card_and_who_uses_none_is_not(root: Path):
    plug(root)
    opened(root, 70, 5, AMDGPU.format(client=1, kib=3 * 2**20))
    opened(root, 70, 6, AMDGPU.format(client=2, kib=1024))
    opened(root, 80, 3, AMDGPU.format(client=3, kib=0), node="card0")
    link(root / "proc/90/fd/0", "/dev/null")
    link(root / "proc/90/fd/1", "socket:[12]")
    assert use(root) == (DeviceUse(uuid=ONE.key, used=20 * GIB, processes={70: 3 * GIB + MIB, 80: 0}),)


def test_an_opening_that_is_inherited_counts_once(root: Path):
    plug(root)
    for pid, descriptor in ((70, 5), (70, 9), (71, 5)):
        opened(root, pid, descriptor, AMDGPU.format(client=1, kib=1024))
    (device,) = use(root)
    assert device.processes == {70: MIB, 71: 0}


def test_each_card_has_its_own_processes(root: Path):
    plug(root)
    plug(root, 1, used="5\n")
    opened(root, 70, 5, AMDGPU.format(client=1, kib=1024))
    opened(root, 70, 6, AMDGPU.format(client=1, kib=2048), node="renderD129")
    assert [(each.uuid, each.used, each.processes) for each in use(root)] == [
        (ONE.key, 20 * GIB, {70: MIB}),
        (TWO.key, 5, {70: 2 * MIB}),
    ]


def test_who_computes_is_told_by_the_driver_for_computing_and_the_larger_of_two_words_counts(root: Path):
    plug(root)
    plug(root, 1)
    kfd(root)
    computes(root, 70, "4711", f"{2 * GIB}\n")
    computes(root, 71, "4712", f"{GIB}\n")
    computes(root, 72, "4711", "0\n")
    opened(root, 70, 5, AMDGPU.format(client=1, kib=1024))
    opened(root, 72, 5, AMDGPU.format(client=2, kib=1024))
    one, two = use(root)
    assert (one.processes, two.processes) == ({70: 2 * GIB, 72: MIB}, {71: GIB})


def test_what_a_driver_does_not_tell_of_a_process_is_unknown_and_not_nothing(root: Path):
    plug(root)
    kfd(root)
    opened(root, 70, 5, "pos:	0\npdev:	0000:03:00.0 pasid:	32770\n")
    computes(root, 71, "4711", "?\n")
    (device,) = use(root)
    assert device.processes == {70: None, 71: None}
    assert foreign_use(device, own={70}, around=Surroundings()).mib is None
    assert foreign_use(device, own={99}, around=Surroundings()).mib == 20 * 1024


@pytest.mark.parametrize("used", [None, "", "much\n", "-1\n"])
def test_a_card_that_does_not_tell_what_is_used_says_so(root: Path, used: str | None):
    plug(root, used=used)
    (device,) = use(root)
    assert (device.used, device.why) == (None, "its memory in use cannot be read")
    assert foreign_use(device, own=(), around=Surroundings()) == ForeignUse(mib=None, why=device.why)


NOBODY = """
import os, sys
from pathlib import Path
from prefect_slots.detect.gpu.drm_usage import query_drm_use
if not os.geteuid():
    os.setuid(65534)
for device in query_drm_use(Path(sys.argv[1]), [sys.argv[2]]):
    print(dict(device.processes))
"""


def test_a_process_that_may_not_be_seen_is_unknown_unless_the_driver_for_computing_lists_all():
    def told() -> str:
        return subprocess.run(
            [sys.executable, "-c", NOBODY, str(root), ONE.key], stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    # Not below pytest's folder, which nobody else may enter.
    with TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        plug(root)
        (root / "proc/70/fd").mkdir(parents=True)
        (root / "proc/70/fd").chmod(0)
        assert told() == "{70: None}\n"
        kfd(root)
        assert told() == "{}\n"


def test_intel_s_cards_tell_of_processes_and_only_some_what_is_used_in_all(root: Path):
    plug_intel(root, 0, ARC, "i915")
    link(root / "sys/class/drm/renderD128/device", f"../../../devices/{ARC}")
    opened(root, 70, 5, I915.format(client=1, mib=2048))
    assert use(root) == (DeviceUse(uuid=f"INTEL-{ARC}", used=None, processes={70: 2 * GIB}),)
    (device,) = use(root)
    assert foreign_use(device, own=(), around=Surroundings()) == ForeignUse(mib=2048)
    assert foreign_use(device, own={70}, around=Surroundings()) == ForeignUse(mib=0)
    put(root / "sys/class/drm/card0", {"lmem_total_bytes": f"{16 * GIB}\n", "lmem_avail_bytes": f"{13 * GIB}\n"})
    assert use(root) == (DeviceUse(uuid=f"INTEL-{ARC}", used=3 * GIB, processes={70: 2 * GIB}),)


def test_cards_that_do_not_matter_are_not_looked_at(root: Path):
    plug(root)
    plug(root, 1)
    assert [each.uuid for each in use(root, TWO.key)] == [TWO.key]
    assert use(root, "GPU-of-nvidia") == ()
    assert use(root / "nothing") == ()


@pytest.mark.parametrize(
    ("text", "client"),
    [
        (AMDGPU.format(client=12, kib=5), Client(number="12", used=5 * 1024)),
        (I915.format(client=3, mib=2), Client(number="3", used=2 * MIB)),
        (XE, Client(number="7", used=30 * MIB)),
        ("drm-client-id: 1\ndrm-total-vram: 4096\n", Client(number="1", used=4096)),
        ("drm-client-id: 1\ndrm-memory-vram: 4 GiB\n", Client(number="1", used=None)),
        ("drm-client-id: 1\ndrm-memory-gtt: 4 KiB\n", Client(number="1", used=None)),
        ("", Client(number="", used=None)),
    ],
)
def test_the_words_of_each_driver_are_read(text: str, client: Client):
    assert parse_fdinfo(text) == client


@given(st.text() | st.lists(st.sampled_from(AMDGPU.splitlines() + I915.splitlines() + [":", "x"])).map("\n".join))
def test_whatever_the_kernel_says_is_read_or_left(text: str):
    used = parse_fdinfo(text).used
    assert used is None or used >= 0
