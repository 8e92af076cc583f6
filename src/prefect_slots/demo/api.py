"""Client of the private server's REST API, without Prefect, whose import takes seconds."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import httpx

from prefect_slots.demo.stage import DemoFailed

# Ten seconds of attempts: a busy SQLite server answers 503 now and then, and is not to spoil the demo.
_ATTEMPTS = 50
_PAUSE_SECONDS = 0.2
_OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True, kw_only=True)
class FlowRun:
    """A flow run as the server shows it; `seconds` is its own running time."""

    name: str
    type: str
    state: str
    message: str
    seconds: float

    @property
    def is_over(self) -> bool:
        """The run has ended, well or badly."""
        return self.type in _OVER


class Api:
    """A connection to the server at `url`; `rest` waits between two attempts."""

    def __init__(self, url: str, rest: Callable[[float], None]) -> None:
        # `trust_env` off: a proxy or a `.netrc` of the user's has no business with this server.
        self._client = httpx.Client(base_url=f"{url}/", timeout=5.0, trust_env=False)
        self._rest = rest

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def is_up(self) -> bool:
        """Tell whether the server answers."""
        try:
            return self._client.get("health").status_code == 200
        except httpx.HTTPError:
            return False

    def has_worker(self, pool: str) -> bool:
        """Tell whether a worker serves the pool."""
        return any(worker["status"] == "ONLINE" for worker in self._ask("POST", f"work_pools/{pool}/workers/filter"))

    def allow_at_once(self, pool: str, runs: int | None) -> None:
        """Set the number of flow runs that the pool may have at the same time; `None` for any number."""
        self._ask("PATCH", f"work_pools/{pool}", {"concurrency_limit": runs})

    def trigger(self, deployment: str, name: str, parameters: dict[str, Any], key: str) -> str:
        """Create a flow run to start now, once per `key`; return its id."""
        # The key makes a repeated request find the first one's flow run instead of making another.
        found = self._ask("GET", f"deployments/name/{deployment}")
        wanted = {"name": name, "parameters": parameters, "idempotency_key": key}
        return str(self._ask("POST", f"deployments/{found['id']}/create_flow_run", wanted)["id"])

    def flow_runs(self, ids: Collection[str]) -> list[FlowRun]:
        """Return the flow runs of these ids."""
        found = self._ask("POST", "flow_runs/filter", {"flow_runs": {"id": {"any_": list(ids)}}})
        return [
            FlowRun(
                name=run["name"],
                type=run["state_type"] or "",
                state=run["state_name"] or "",
                message=(run["state"] or {}).get("message") or "",
                seconds=float(run["total_run_time"]),
            )
            for run in found
        ]

    def limits(self) -> dict[str, tuple[int, int]]:
        """Return each limit's slots and the number that is taken; mirrors are left out."""
        found = self._ask("POST", "v2/concurrency_limits/filter", {"limit": 200})
        return {
            limit["name"]: (limit["limit"], limit["active_slots"])
            for limit in found
            if not limit["name"].startswith("tag:")
        }

    def _ask(self, method: str, path: str, data: dict[str, Any] | None = None) -> Any:
        failure = ""
        for _ in range(_ATTEMPTS):
            try:
                answer = self._client.request(method, path, json=data)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                if answer.is_success:
                    return answer.json() if answer.content else None
                failure = f"HTTP {answer.status_code}: {answer.text[:300]}"
                # Asking again does not change a refusal.
                if answer.status_code < 500:
                    break
            self._rest(_PAUSE_SECONDS)
        raise DemoFailed(f"the server does not do `{method} {path}`: {failure}")
