"""Real servers for the integration tests; one for all tests of a run."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
    temporary_settings,
)
from tests.support.boxes import Box
from tests.support.prefect_server import PrefectServer

from prefect_slots import SlotTaskRunner
from prefect_slots.acquire.engine import close_engine


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server for all tests of a group, `server` or `faults`; they use names of their own on it."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect-server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def forgotten(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no claim behind: a GPU of the same name in a later test is no other machine's."""
    yield
    if "prefect_server" in request.fixturenames:
        server: PrefectServer = request.getfixturevalue("prefect_server")
        with contextlib.suppress(httpx.HTTPError):  # some tests stop it
            server.forget_claims()


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A registered machine that this process is on; in the end nothing may be left of what it took."""
    made = Box(tmp_path, prefect_server.url)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    made.register()
    # In the user's own storage a former run's result would be found, and a hit asks for nothing.
    results = {PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}
    with temporary_settings({PREFECT_API_URL: prefect_server.url, **results}):
        yield made
    close_engine()
    made.assert_nothing_is_left()


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def runner_box(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One machine for all tests of a module that run tasks by `SlotTaskRunner`."""
    made = Box(tmp_path_factory.mktemp("box"), prefect_server.url)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**made.env, "PREFECT_LOGGING_LEVEL": "INFO"}.items():
            patch.setenv(name, value)
        made.register()
        quiet = {PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
        results = {PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results")}
        with temporary_settings({PREFECT_API_URL: prefect_server.url, **quiet, **results}):
            yield made
        close_engine()
        made.assert_nothing_is_left()


@pytest.fixture(scope="module")
def runner(runner_box: Box) -> Iterator[SlotTaskRunner]:
    """One for all tests of a module: a process that has imported Prefect is worth keeping."""
    with SlotTaskRunner(2) as started:
        yield started
