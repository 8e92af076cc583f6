"""Two processes that nest two resources in opposite orders: ours end, Prefect's own `concurrency` hangs."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import httpx
import pytest
from tests.support.boxes import Box, line, tell
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

OURS = """
    import json, sys
    from prefect import flow, task
    from prefect_slots import requires
    from prefect_slots.errors import OutOfOrder

    first, second = ({name: 1} for name in sys.argv[1:3])

    @task
    @requires(**second)
    def inner():
        return "done"

    @flow
    def nesting():
        try:
            with requires(**first):
                print(json.dumps("holds the first"), flush=True)
                sys.stdin.readline()
                return inner()
        except OutOfOrder as error:
            return str(error)

    print(json.dumps(nesting()), flush=True)
"""

STOCK = """
    import json, sys
    from prefect.concurrency.sync import concurrency

    first, second = sys.argv[1:3]
    with concurrency(first, strict=True):
        print(json.dumps("holds the first"), flush=True)
        sys.stdin.readline()
        with concurrency(second, strict=True):
            print(json.dumps("done"), flush=True)
"""


def test_opposite_orders_end_and_stock_concurrency_hangs(prefect_server: PrefectServer, tmp_path: Path):
    box = Box(tmp_path, prefect_server.url, CONFIG)
    box.register()
    x, y = f"stock-x-{uuid.uuid4()}", f"stock-y-{uuid.uuid4()}"
    for name in (x, y):
        body = {"name": name, "limit": 1}
        box.send("POST", "v2/concurrency_limits/", body)
    orders = (("scanner", "stage"), ("stage", "scanner"))
    stock = ((x, y), (y, x))

    ours = [box.start(OURS, *order) for order in orders]
    theirs = [box.start(STOCK, *order) for order in stock]
    try:
        for process in (*ours, *theirs):
            assert line(process) == "holds the first"
        for process in (*ours, *theirs):
            tell(process)
        answers = [line(process) for process in ours]
        assert answers[0] == "done"
        assert "asks for 1 of scanner" in answers[1]
        assert "holds stage" in answers[1]
        for process in ours:
            assert process.wait(60) == 0
        box.assert_nothing_is_left()
        # Both still hold their first limit, and neither has got its second, long after ours have ended.
        for name in (x, y):
            limit = httpx.get(f"{box.url}/v2/concurrency_limits/{name}", timeout=30).json()
            assert limit["active_slots"] == 1
        with pytest.raises(subprocess.TimeoutExpired):
            theirs[0].wait(8)
        assert [process.poll() for process in theirs] == [None, None]
    finally:
        for process in (*ours, *theirs):
            process.kill()
            process.communicate()
    until(lambda: all(process.poll() is not None for process in theirs))


CONFIG = """
[settings]
worker = "{name}"
[gpus]
detect = false
[resources.scanner]
capacity = 1
[resources.stage]
capacity = 1
"""
