"""A request whose first call is lost asks again: what that call may hold is not what its grant holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.boxes import Box
from tests.support.bystander import registered
from tests.support.lossy_proxy import LossyProxy, lossy_proxy_in_a_thread
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer

from prefect_slots import requires

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]


@pytest.fixture
def proxy(prefect_server: PrefectServer) -> Iterator[LossyProxy]:
    with lossy_proxy_in_a_thread(prefect_server.url) as made:
        yield made


@pytest.fixture
def box(proxy: LossyProxy, tmp_path: Path) -> Iterator[Box]:
    """A machine in which this process takes part, behind the proxy."""
    with registered(Box(tmp_path, proxy.url)) as made:
        yield made


def leases_held(box: Box) -> list[str]:
    """Return the names of the limits for which the ledger has a lease that a grant stands on."""
    with closing(sqlite3.connect(box.state / "ledger.sqlite3")) as connection:
        found = connection.execute("SELECT l.names FROM lease l JOIN held h ON h.id=l.held WHERE l.state='lease'")
        return [row[0] for row in found]


@pytest.mark.slow
def test_a_seat_of_the_fleet_is_not_used_on_the_strength_of_a_call_that_was_lost(box: Box, proxy: LossyProxy) -> None:
    with requires(license={box.matlab: 1}):  # opens the connection that the call is lost on
        pass
    # It is not listed at the server, and may come yet: for a while its row says neither.
    proxy.lose_request("increment-with-lease")
    with requires(license={box.matlab: 1}):
        assert proxy.lost == 1
        assert len(leases_held(box)) == 1
        assert box.limits()[f"license:{box.matlab}"] == 1
    box.assert_nothing_is_left(60)


@pytest.mark.slow
def test_what_is_taken_again_in_the_background_is_taken_once_though_an_answer_is_lost(
    box: Box, proxy: LossyProxy
) -> None:
    with requires(cpus=1):  # opens the connection that the calls are lost on
        pass
    proxy.lose_request("increment-with-lease")
    proxy.lose_answer_to("increment-with-lease")
    with requires(cpus=1):
        until(lambda: proxy.lost == 2, 20, what="the lost answer to the second try")
        until(lambda: len(leases_held(box)) == 1, 60, what="the third try")
        until(lambda: box.limits() == {f"cpus:{box.name}": 1}, 60, what="the return of what the second try took")
    box.assert_nothing_is_left(60)
