"""A real worker of a machine, and flow runs for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psutil
from tests.support.boxes import Box


class Worker:
    """A worker process of its own; its limits are looked after by the wrapper, unless `program` is another one."""

    def __init__(self, box: Box, pool: str, *flags: str, program: str = "prefect_slots") -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
        command = [sys.executable, "-m", program, "worker", "start", "--pool", pool, *flags]
        self.log = box.config.parent / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=box.config.parent)

    def says(self, text: str) -> bool:
        """Tell whether it has said this; it must be running or have said it before its end."""
        assert self.process.poll() is None or text in self.log.read_text(), self.log.read_text()[-4000:]
        return text in self.log.read_text()

    def stop(self) -> None:
        """Let it end, by force if need be."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        """Kill it and all its children, as the end of a container does."""
        if self.process.poll() is None:
            own = psutil.Process(self.process.pid)
            for each in (own, *own.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            self.process.wait()


@contextmanager
def work_pool(box: Box, kind: str = "process") -> Generator[str]:
    """Make a work pool of that type for as long as the block lasts."""
    name = f"pool-{box.name}"
    post(box, "work_pools/", {"name": name, "type": kind})
    yield name
    httpx.delete(f"{box.url}/work_pools/{name}", timeout=30)


def post(box: Box, path: str, body: dict[str, Any]) -> Any:
    """Ask the server until it answers; return what it says."""
    return box.send("POST", path, body).json()


def deploy(box: Box, pool: str, source: str, flow: str) -> str:
    """Deploy the flow of that name from a program's text; return the deployment's id."""
    folder = box.config.parent
    (folder / f"{flow}.py").write_text(source)
    made = post(box, "flows/", {"name": f"{flow}-{box.name}"})
    body = {
        "name": box.name,
        "flow_id": made["id"],
        "work_pool_name": pool,
        "entrypoint": f"{flow}.py:{flow}",
        "path": str(folder),
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
    }
    return str(post(box, "deployments/", body)["id"])


def trigger(box: Box, deployment: str, **parameters: Any) -> str:
    """Create a flow run; return its id."""
    return str(post(box, f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])


def state_of(box: Box, flow_run: str) -> str:
    """Return the type of a flow run's state."""
    return str(httpx.get(f"{box.url}/flow_runs/{flow_run}", timeout=30).json()["state_type"])
