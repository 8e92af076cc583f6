"""The vendors of license servers: their programs, arguments and parsers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
    """The way in which one vendor's servers are asked. Words may hold `{server}`, `{port}`, `{host}`, `{wanted}`.

    Attributes:
        program: The vendor's program, where no command is configured.
        words: Its arguments.
        parse: Parser of its output.
        input: Its standard input.
        env: Additions to its environment.
        lists_ended: Licenses that have ended are listed and counted, each with its own day.
    """

    program: str
    words: str
    parse: Parser
    input: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    lists_ended: bool = True

    def arguments(self, server: str, features: Sequence[str]) -> list[str]:
        """Return the arguments for a server and the features that are wanted of it."""
        # Asking for all is costly for the server; asking for some one by one takes it turn after turn.
        all_or_one = ["-f", features[0]] if len(features) == 1 else ["-a"]
        argv: list[str] = []
        # Filled word by word: no name, not even one with a blank, becomes two arguments.
        for word in self.words.split():
            argv += all_or_one if word == "{wanted}" else [fill(word, server)]
        return argv


def fill(text: str, server: str) -> str:
    """Return `text` with the names of the first `port@host` in `server` filled in."""
    port, _, host = server.split(",")[0].partition("@")
    return text.format(server=server, port=port, host=host)


VENDORS: dict[str, Vendor] = {
    "flexnet": Vendor(program="lmutil", words="lmstat -c {server} {wanted}", parse=parse_flexnet, lists_ended=False),
    # The same program can stop the server; no other word of it is ever used.
    "rlm": Vendor(program="rlmutil", words="rlmstat -a -c {server}", parse=parse_rlm),
    "lmx": Vendor(program="lmxendutil", words="-licstat -host {host} -port {port}", parse=parse_lmx),
    "lsdyna": Vendor(program="lstc_qrun", words="-s {server} -R", parse=parse_lsdyna),
    "dsls": Vendor(
        program="DSLicSrv",
        words="-admin",
        parse=parse_dsls,
        input="connect {host} {port}\ngetLicenseUsage -csv\nquit\n",
    ),
    "olicense": Vendor(program="olixtool", words="-sv {host}:{port}", parse=parse_olicense),
    # The program takes the port from its environment only.
    "sentinel": Vendor(
        program="lsmon", words="{host}", parse=parse_sentinel, env={"LSPORT": "{port}"}, lists_ended=False
    ),
}
