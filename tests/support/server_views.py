"""What a test's Prefect server knows of runs, for tests that look at it from outside."""

from __future__ import annotations

from typing import Any

import httpx
from tests.support.boxes import Box

from prefect_slots.limits.client import Server, ServerInfo


async def check_server(url: str | None = None) -> ServerInfo:
    """Return the server's description of itself, over a connection of its own; by default that of PREFECT_API_URL."""
    server = await Server.open(url, request_seconds=5.0)
    try:
        return await server.info()
    finally:
        await server.close()


def shown(box: Box, task_run: object) -> dict[str, Any]:
    """Return a task run as the server has it; without a state if it has not heard of it."""
    answer = httpx.get(f"{box.url}/task_runs/{task_run}", timeout=30)
    return {"state_name": "", "state_type": ""} if answer.status_code == 404 else answer.raise_for_status().json()


def states(box: Box, task_run: object) -> list[str]:
    """Return the names of the states that a task run has been in."""
    found = httpx.get(f"{box.url}/task_run_states/", params={"task_run_id": str(task_run)}, timeout=30)
    return [one["name"] for one in found.raise_for_status().json()]


def logs(box: Box, number: object) -> list[str]:
    """Return the messages of a flow run's logs."""
    wanted = {"logs": {"flow_run_id": {"any_": [str(number)]}}, "limit": 200}
    found = httpx.post(f"{box.url}/logs/filter", json=wanted, timeout=30).raise_for_status().json()
    return [one["message"] for one in found]


def events(box: Box, name: str, resource: str) -> list[dict[str, Any]]:
    """Return the events of a name whose resource's id ends so."""
    wanted = {"filter": {"event": {"name": [name]}}, "limit": 50}
    found = httpx.post(f"{box.url}/events/filter", json=wanted, timeout=30).raise_for_status().json()["events"]
    return [one for one in found if one["resource"]["prefect.resource.id"].endswith(resource)]
