"""RLM: the output of `rlmutil rlmstat -a`, pool by pool; the pools of one product are summed.

A pool that an ISV server lists under several products is one pool of seats. The pool's own line wins over the list of
users: rows that share a handle show the same seats again. The manual does not say if `inuse` holds reservations, so
they count on top of it, within what there is.
"""

import re

from prefect_slots.detect.licenses.output import Block, Output
from prefect_slots.detect.licenses.report import Reading

_POOL = re.compile(r"\s*+(?P<name>\S+) v\S+?(?:, pool: (?P<pool>\d+))?")
_COUNT = re.compile(
    r"\s*+(?:count: (?P<count>\d+|unlimited|uncounted)|(?P<free>uncounted|unlimited))"
    r"(?:, # reservations: (?P<reserved>\d+))?(?:, inuse: (?P<inuse>\d+))?(?:, exp: (?P<exp>[^,]+))?"
    r"(?:,? hostid: (?P<lock>[^,]*))?(?:,.*)?",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"\s*+Token-based license.*", re.IGNORECASE)
_USED = re.compile(
    r"\s*+(?P<name>\S+) v\S+: (?P<user>.+)@(?P<host>\S+) (?P<count>\d+)/\d+ at \d+/\d+ \d+:\d+"
    r"(?:\s+\((?:handle: (?P<handle>\w+)|.*)\))?(?:\s+\[.*\])?"
)
_FAILED = re.compile(r'\s*+(?P<why>Error connecting to ".*" server.*)', re.IGNORECASE)
_ISV = re.compile(r"\s*+(?P<isv>\S+) license pool status on .*")
# A lock may stand beside the count or below it.
_LOCK = re.compile(r"\s*+(?:.*, )?hostid: (?P<lock>[^,]*)(?:,.*)?")
_KNOWN = re.compile(
    r"\s*+(?:Setting license file path to .*|rlm(?:util|stat) v.*|Copyright .*|-{4,}.*|obsolete: \d+, min_remove: .*"
    r"|\S+ (?:ISV server |license pool |license usage )?status on .*|\S+ (?:software|comm) version:? v.*"
    r"|\S+ \w+ log filename:.*|Startup time: .*|(?:Todays|Recent) Statistics .*|Recent Stats .*"
    r"|(?:\d+d +)?\d\d:\d\d:\d\d +\d.*|(?:Messages|Connections|Checkouts|Denials|Removals): .*|Name +Port +Running.*"
    r"|\S+ +\d+ +(?:Yes|No) +\d+|Connection attempted to host: .*|No error"
    r"|(?:customer|contract|issuer|issued|options|start|akey|timezone|share|user_based|host_based): .*)",
)
# Locks that bind a license to nothing.
_UNLOCKED = frozenset({"", "any", "demo"})


def parse_rlm(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `rlmstat -a`."""
    output = Output(text, server, checkouts)
    holders: list[re.Match[str]] = []
    # The line of a pool whose count must stand in the next line; without it the pool's seats are unknown.
    awaited: tuple[int, str] | None = None
    isv = ""
    for line in output:
        if awaited is not None and _read_count(output, output.blocks[-1]):
            awaited = None
            continue
        if awaited is not None:
            output.doubt(*awaited)
            awaited = None
        if found := _USED.fullmatch(line):
            holders.append(found)
        elif found := _ISV.fullmatch(line):
            isv = found["isv"]
        elif output.blocks and (found := _LOCK.fullmatch(line)):
            output.blocks[-1].locks = _locks(found["lock"])
        elif not _KNOWN.fullmatch(line) and (found := _POOL.fullmatch(line)):
            output.begin(found["name"]).pool = f"{isv} {found['pool']}" if found["pool"] else ""
            awaited = output.number, line
        else:
            output.remark(_FAILED, _KNOWN)
    if awaited is not None:
        output.doubt(*awaited)
    # Pools of one product share the list of its holders: the first takes them, and merging adds the pools up.
    first = {pool.name: pool for pool in reversed(output.blocks)}
    for found in holders:
        if found["name"] in first:
            output.hold(found, first[found["name"]])
    return output.reading()


def _locks(lock: str) -> tuple[str, ...]:
    return () if lock.strip().casefold() in _UNLOCKED else (lock.strip(),)


def _read_count(output: Output, pool: Block) -> bool:
    """Read the line below a pool's name; return false for any other line."""
    if _TOKENS.fullmatch(output.line):
        pool.unknown = "it is drawn from the tokens of another product; ask for that product's tokens instead"
        return True
    found = _COUNT.fullmatch(output.line)
    if found is None:
        return False
    pool.expires = output.day(found["exp"])
    # Pools of one number and of different counts are two: some versions give numbers anew for each product.
    pool.pool = f"{pool.pool} {output.line.strip()}" if pool.pool else ""
    if found["lock"] is not None:
        pool.locks = _locks(found["lock"])
    pool.unlimited = found["free"] is not None or not found["count"].isdigit()
    if not pool.unlimited:
        if found["inuse"] is None:
            return False
        pool.total, pool.reserved, in_use = int(found["count"]), int(found["reserved"] or 0), int(found["inuse"])
        # Reserved seats are nobody else's: counting some of them twice makes a task wait, not fail.
        pool.used = max(in_use, min(pool.total, in_use + pool.reserved))
    return True
