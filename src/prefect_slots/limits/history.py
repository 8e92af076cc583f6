"""The last change of a limit, its time and its author, as far as the server's events tell."""

from datetime import datetime
from typing import Any

from prefect_slots.limits.client import Server

# Newest first; a limit that people change more often than this has a history that nobody reads.
_EVENTS = 20
_UPDATED = "prefect.concurrency-limit.updated"
# Roles of related resources that name a person or a key; only Prefect Cloud tells them.
_AUTHORS = ("actor", "user", "service-account")


async def last_change(server: Server, name: str, limit: int, *, active: bool) -> tuple[float, str] | None:
    """Return the time (Unix) and the author of the change to this number and state; `None` if no event tells.

    The server stores an event some seconds after the change. One that is older than Prefect 3.7.4 has none.

    Raises:
        ServerUnreachable, ServerRefused: if it does not answer, or has no events.
    """
    wanted = {"event": {"name": [_UPDATED]}, "resource": {"labels": {"prefect.resource.name": [name]}}}
    body = {"filter": wanted, "limit": _EVENTS}
    answer = await server.ask(lambda client: client.request("POST", "/events/filter", json=body))
    events: list[dict[str, Any]] = answer.json().get("events", [])
    # Of equal states one behind another, the oldest is the change.
    found: dict[str, Any] | None = None
    for event in events:
        payload = event.get("payload", {})
        if payload.get("limit") != limit or payload.get("active") != active:
            break
        found = event
    if found is None:
        return None
    authors = [each for each in found.get("related", []) if each.get("prefect.resource.role") in _AUTHORS]
    by = next((each.get("prefect.resource.name") or each.get("prefect.resource.id", "") for each in authors), "")
    return datetime.fromisoformat(found["occurred"]).timestamp(), by
