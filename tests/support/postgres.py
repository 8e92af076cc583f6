"""A real PostgreSQL for tests, from whatever programs the machine has; refused as root, it runs as nobody there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support.polling import until

PROGRAMS = ("initdb", "postgres", "pg_isready", "createdb")
_NOBODY = 65534


def has_postgres() -> bool:
    """Return whether all of PostgreSQL's programs that are needed can be found.

    Raises:
        RuntimeError: if they cannot, and `REQUIRE_POSTGRES` says that its tests must not be skipped.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and os.environ.get("REQUIRE_POSTGRES"):
        raise RuntimeError(f"PostgreSQL's programs are to be tested with, and these are not there: {missing}")
    return not missing


class Postgres:
    """One server with an empty database `prefect`, in a folder of its own.

    Attributes:
        url: As Prefect's server wants it.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="prefect-slots-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        self._process: subprocess.Popen[Any] | None = None
        self.url = f"postgresql+asyncpg://postgres@127.0.0.1:{self._port}/prefect"

    def start(self) -> None:
        """Start; return when the database is there."""
        as_whom: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(self._folder, _NOBODY, _NOBODY)
            as_whom = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        data = str(self._folder / "data")
        init = ["initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **as_whom)
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = ["postgres", "-D", data, "-p", self._port, *(part for option in options for part in ("-c", option))]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **as_whom)
        at = ["-h", "127.0.0.1", "-p", self._port]
        until(lambda: subprocess.run(["pg_isready", "-q", *at], check=False).returncode == 0, 60, what="PostgreSQL")
        subprocess.run(["createdb", *at, "-U", "postgres", "prefect"], check=True)

    def stop(self) -> None:
        """Stop and delete everything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown: sessions are ended, not waited for
            self._process.wait(30)
        shutil.rmtree(self._folder)
