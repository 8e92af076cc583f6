"""FlexNet: the output of `lmutil lmstat`, feature by feature.

The number in a feature's own line wins over the list below it, which may be shorter or longer; in use are checkouts and
reservations, without queued requests. Errors stand in the text and come with exit status 0, and a group of three
servers of which one is dead still counts rightly, so the text alone is judged.
"""

import re
from collections.abc import Iterator

from prefect_slots.detect.licenses.output import Block, Output
from prefect_slots.detect.licenses.report import Checkout, Reading, earliest
from prefect_slots.model import Finding

# Letters of a server's error that a finding quotes: garbage may be long.
_SHOWN = 200

# Blanks are matched possessively here and below: given back one by one, they would take quadratic time in garbage.
_USERS_OF = re.compile(r"\s*+Users of (?P<name>\S+):\s*(?P<said>.*)")
_TOTAL = re.compile(r"\(Total of (\d+) licenses?\s+issued;\s+Total of (\d+) licenses?\s+in\s+use\)")
_CANNOT_GET = re.compile(r"\s*+Cannot get users of (?P<name>\S+): (?P<why>.*)")
_UNSUPPORTED = re.compile(rf"\(Error: (?P<error>.*)\)|{_CANNOT_GET.pattern}")

# The list of a feature's holders. Greedy from the left, because a user or a display may hold anything at all.
_HELD = re.compile(
    r"\s++(?P<holder>.*) \(v[^()]*\) \([^()]*/[^()/\s]+(?: \d+)?\)"
    r"(?:, start \w+ \d+/\d+(?:/\d+)? \d+:\d+(?::\d+)?(?:,? +(?P<count>\d+) licenses?)?"
    r"(?:,? *\(linger: +(?P<linger>\d+)(?: */ *(?P<of>\d+))? *\))?(?:, PID: \d+)?"
    r"|,? +queued for (?P<queued>\d+) licenses?)"
)
_RESERVED = re.compile(r"\s++(?P<count>\d+) RESERVATIONs? for (?P<kind>\S+) (?P<name>.*\S)\s*\([^()]*/\S+(?: \d+)?\)")
_LICENSE = re.compile(r'\s*+"[^"]+" v\S*, vendor: [^,\s]+(?:, expiry: (?P<expiry>.+))?')
_LOCK = re.compile(r"\s*+(?:uncounted )?nodelocked license(?:,? locked to (?P<lock>.+))?")
# Some daemons print a license that any machine may use as one that is locked, to nothing.
_FLOATING = re.compile(r'\s*+(?:floating license.*|.*\blicense,? locked to "?(?:NOTHING|(?:ID=)?ANY)\b.*)')
_VENDOR_STRING = re.compile(r"\s*+vendor_string:.*")

_SERVER_UP = re.compile(r"\s*+(?P<host>\S+): license server UP(?P<master> \(MASTER\))?(?: v.*)?")
_DOWN = re.compile(r"\s*+(?P<who>\S+): (?P<why>license server DOWN.*|.*\(-\d+,\d+.*\))")
_FAILED = re.compile(
    r"\s*+(?:Error getting status|lmgrd is not running|(?:Fle[xX][nN]et Licensing|FLEX(?:net Licensing|lm)) error):"
    r"\s*+(?P<why>.*)"
)
_KNOWN = re.compile(
    r"\s*+(?:lm(?:util|stat|admin)(?: - Copyright.*| v\d.*)?|Flexible License Manager status on .*"
    r"|\[Detecting lmgrd processes\.\.\.\]"
    r"|License server status: .*|License file\(s\) on .*|Vendor daemon status \(on .*\):|Feature usage info:|-{4,}"
    r"|\S+: UP v.*|NOTE:.*|Feature: .*|License path: .*|For further information.*|available at .*)"
)


def parse_flexnet(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lmutil lmstat`.

    Args:
        text: Its whole output.
        server: Subject of the findings.
        checkouts: Keep the holders of seats; user names are personal data.
    """
    output = Output(text, server, checkouts)
    errors: list[str] = []
    # Each server is told of once, though its state stands in several places.
    down: dict[str, str] = {}
    masters: dict[str, str] = {}
    for line in _joined_lines(output):
        if _read_header(output, line) or (output.blocks and _read_listed(output, output.blocks[-1], line)):
            continue
        # Before the errors: a known line, as a note, may quote an error's numbers.
        if _KNOWN.fullmatch(line):
            continue
        if found := _SERVER_UP.fullmatch(line):
            if found["master"]:
                masters[found["host"].casefold()] = found["host"]
        elif found := _FAILED.fullmatch(line):
            errors.append(found["why"][:_SHOWN])
        elif found := _DOWN.fullmatch(line):
            down[found["who"].casefold()] = f"{found['who']}: {found['why']}"[:_SHOWN]
        else:
            output.doubt()
    return _reading(output, [*errors, *down.values()], list(masters.values()))


def _joined_lines(output: Output) -> Iterator[str]:
    """Yield the lines; the first line of a feature that `lmstat` broke in two is one line again."""
    lines = iter(output)
    for line in lines:
        if not (_USERS_OF.fullmatch(line) and "(Total" in line and ")" not in line):
            yield line
            continue
        number = output.number
        whole = f"{line} {next(lines, '').strip()}"
        output.number, output.line = number, whole
        yield whole


def _read_header(output: Output, line: str) -> bool:
    """Read a feature's own line; return false for any other line."""
    if found := _CANNOT_GET.fullmatch(line):
        output.begin(found["name"]).unknown = found["why"][:_SHOWN]
        return True
    found = _USERS_OF.fullmatch(line)
    if found is None:
        return False
    block, said = output.begin(found["name"]), found["said"]
    if found := _TOTAL.fullmatch(said):
        block.total, block.used = int(found[1]), int(found[2])
    elif said == "(Uncounted, node-locked)":
        block.unlimited = True
    elif found := _UNSUPPORTED.fullmatch(said):
        block.unknown = (found["error"] or found["why"] or "")[:_SHOWN]
    else:
        output.doubt()
        block.unknown = "its count was not understood"
    return True


def _read_listed(output: Output, block: Block, line: str) -> bool:
    """Read a line below a feature's own; return false for any other line."""
    if found := _HELD.fullmatch(line):
        if found["queued"] is not None:
            block.queued += int(found["queued"])
            return True
        user, host, display = (*found["holder"].split(" ", 2), "", "")[:3]
        count, lingering = int(found["count"] or 1), int(found["of"] or found["linger"] or 0)
        block.checkouts.append(Checkout(user=user, host=host, display=display, count=count, lingering=lingering))
    elif found := _RESERVED.fullmatch(line):
        block.reserve(found["kind"], found["name"], int(found["count"]))
    elif found := _LICENSE.fullmatch(line):
        block.expires = earliest((block.expires, output.day(found["expiry"])))
    elif _FLOATING.fullmatch(line):
        block.locks = ()
    elif found := _LOCK.fullmatch(line):
        # One floating license unlocks the feature, whichever of its licenses is told first.
        block.locks = () if block.locks == () else (*(block.locks or ()), found["lock"] or "")
    else:
        return _VENDOR_STRING.fullmatch(line) is not None
    return True


def _reading(output: Output, troubles: list[str], masters: list[str]) -> Reading:
    # A group of servers of which one is dead still counts rightly, so that troubles stand beside the counts.
    remedy = "see the server's log, and `lmutil lmdiag` on this machine"
    findings = [Finding(subject=output.server, problem=words, remedy=remedy) for words in troubles]
    if len(masters) > 1:
        problem = f"{' and '.join(masters)} each call themselves master, so seats may count twice"
        remedy = "restart the licence servers one after the other"
        findings.append(Finding(subject=output.server, problem=problem, remedy=remedy))
    features = output.features()
    failure = "; ".join(troubles) or ("its output was not understood" if output.doubts else None)
    return Reading(features=features, findings=(*findings, *output.findings()), failure=None if features else failure)
