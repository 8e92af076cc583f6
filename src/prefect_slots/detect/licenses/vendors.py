"""The vendors of license servers: their programs, arguments and parsers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from prefect_slots.detect.licenses.dsls import parse_dsls
from prefect_slots.detect.licenses.flexnet import parse_flexnet
from prefect_slots.detect.licenses.lmx import parse_lmx
from prefect_slots.detect.licenses.lsdyna import parse_lsdyna
from prefect_slots.detect.licenses.olicense import parse_olicense
from prefect_slots.detect.licenses.report import Reading
from prefect_slots.detect.licenses.rlm import parse_rlm
from prefect_slots.detect.licenses.sentinel import parse_sentinel


class Parser(Protocol):
    """Reader of the output of a vendor's program."""

    def __call__(self, text: str, *, server: str, checkouts: bool = False) -> Reading:
        """Read `text`; findings are about `server`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """How one vendor's servers are asked.

    Attributes:
        program: The vendor's program, where no command is configured.
        arguments: Its arguments for a server, and for the features that are wanted.
        parse: Parser of its output.
        stdin: Its input, for a server.
        env: Additions to its environment, for a server.
    """

    program: str
    arguments: Callable[[str, Sequence[str]], list[str]]
    parse: Parser
    stdin: Callable[[str], str] = lambda _: ""
    env: Callable[[str], dict[str, str]] = lambda _: {}


def port_and_host(server: str) -> tuple[str, str]:
    """Return the port and the host of the first `port@host` in `server`."""
    port, _, host = server.split(",")[0].partition("@")
    return port, host


def _lmstat(server: str, features: Sequence[str]) -> list[str]:
    # Asking for all is costly for the server; asking for some one by one takes it turn after turn.
    wanted = ["-f", features[0]] if len(features) == 1 else ["-a"]
    return ["lmstat", "-c", server, *wanted]


def _rlmstat(server: str, _: Sequence[str]) -> list[str]:
    # The same program can stop the server; no other word of it is ever used.
    return ["rlmstat", "-a", "-c", server]


def _licstat(server: str, _: Sequence[str]) -> list[str]:
    port, host = port_and_host(server)
    return ["-licstat", "-host", host, "-port", port]


def _qrun(server: str, _: Sequence[str]) -> list[str]:
    return ["-s", server, "-R"]


def _admin(_: str, __: Sequence[str]) -> list[str]:
    return ["-admin"]


def _usage_of(server: str) -> str:
    port, host = port_and_host(server)
    return f"connect {host} {port}\ngetLicenseUsage -csv\nquit\n"


def _status_of(server: str, _: Sequence[str]) -> list[str]:
    port, host = port_and_host(server)
    return ["-sv", f"{host}:{port}"]


def _lsmon(server: str, _: Sequence[str]) -> list[str]:
    return [port_and_host(server)[1]]


def _lsport(server: str) -> dict[str, str]:
    return {"LSPORT": port_and_host(server)[0]}


VENDORS: Final[dict[str, Vendor]] = {
    "flexnet": Vendor(program="lmutil", arguments=_lmstat, parse=parse_flexnet),
    "rlm": Vendor(program="rlmutil", arguments=_rlmstat, parse=parse_rlm),
    "lmx": Vendor(program="lmxendutil", arguments=_licstat, parse=parse_lmx),
    "lsdyna": Vendor(program="lstc_qrun", arguments=_qrun, parse=parse_lsdyna),
    "dsls": Vendor(program="DSLicSrv", arguments=_admin, parse=parse_dsls, stdin=_usage_of),
    "olicense": Vendor(program="olixtool", arguments=_status_of, parse=parse_olicense),
    "sentinel": Vendor(program="lsmon", arguments=_lsmon, parse=parse_sentinel, env=_lsport),
}
