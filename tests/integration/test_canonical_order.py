"""Law 8 on the wire: whatever the order of the request, the server is asked in one canonical order."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.support.boxes import Box
from tests.support.lossy_proxy import LossyProxy, lossy_proxy_in_a_thread
from tests.support.prefect_server import PrefectServer

from prefect_slots import requires
from prefect_slots.acquire.engine import close_engine

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

_NAMES = re.compile(rb'"names":\s*(\[[^\]]*\]),\s*"slots":\s*(\d+)')


@pytest.fixture
def proxy(prefect_server: PrefectServer) -> Iterator[LossyProxy]:
    with lossy_proxy_in_a_thread(prefect_server.url) as made:
        yield made


@pytest.fixture
def box(proxy: LossyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    made = Box(tmp_path, proxy.url)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    made.register()
    with temporary_settings({PREFECT_API_URL: proxy.url}):
        yield made
    close_engine()
    made.assert_nothing_is_left()


def occupied(proxy: LossyProxy) -> list[tuple[list[str], int]]:
    """Return the limits, without mirrors, and the number of each call that asked for slots, in the order they came.

    A call that a busy server sends back with 503 is made again at once, and counts once.
    """
    made = [
        ([name for name in json.loads(names) if not name.startswith("tag:")], int(slots))
        for names, slots in _NAMES.findall(b"".join(proxy.sent))
    ]
    return [call for call, _ in itertools.groupby(made)]


def test_every_permutation_asks_the_server_in_the_same_order(box: Box, proxy: LossyProxy):
    m = box.name
    wanted: dict[str, Any] = {
        "license": {box.matlab: 2, f"ansys-{m}": 1},
        "gpu_mem": 8,
        "gpus": 2,
        "mem": 8,
        "scanner": 1,
        "cpus": 2,
    }
    # Worker scope before fleet scope, then by resource, a resource's total before its cells; neighbours of equal
    # weight go in one call, others do not, however equal: cpus and the fleet's licence both ask for 2.
    expected = [
        ([f"cpus:{m}"], 2),
        ([f"gpu-mem:{m}"], 16384),
        ([f"gpu-mem:{m}:0", f"gpu-mem:{m}:1"], 8192),
        ([f"license:ansys-{m}:{m}"], 1),
        ([f"mem:{m}"], 8192),
        ([f"scanner:{m}"], 1),
        ([f"license:{box.matlab}", f"license:{box.matlab}:{m}"], 2),
    ]
    for names in itertools.islice(itertools.permutations(wanted), 0, None, 90):
        proxy.sent.clear()
        with requires(**{name: wanted[name] for name in names}):
            assert occupied(proxy) == expected
        box.assert_nothing_is_left()
