"""The vendors: how each one's server is asked, and who reads the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from prefect_slots.detect.licences.flexnet import parse_flexnet
from prefect_slots.detect.licences.usage import Reading


class Parser(Protocol):
    """Reads what a vendor's program printed."""

    def __call__(self, text: str, *, server: str, checkouts: bool = False) -> Reading:
        """Read `text`; findings are about `server`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """How one vendor's servers are asked.

    Attributes:
        program: The vendor's program, where no command is configured.
        arguments: Its arguments for a server, and for the features that are wanted.
        parse: Reads what it prints.
        stdin: What it reads, for a server.
    """

    program: str
    arguments: Callable[[str, Sequence[str]], list[str]]
    parse: Parser
    stdin: Callable[[str], str] = lambda _: ""


def port_and_host(server: str) -> tuple[str, str]:
    """Return the port and the host of the first `port@host` in `server`."""
    port, _, host = server.split(",")[0].partition("@")
    return port, host


def _lmstat(server: str, features: Sequence[str]) -> list[str]:
    # Asking for all is costly for the server; asking for some one by one takes it turn after turn.
    wanted = ["-f", features[0]] if len(features) == 1 else ["-a"]
    return ["lmstat", "-c", server, *wanted]


VENDORS: Final[dict[str, Vendor]] = {
    "flexnet": Vendor(program="lmutil", arguments=_lmstat, parse=parse_flexnet),
}
