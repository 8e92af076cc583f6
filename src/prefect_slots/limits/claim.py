"""The claim: a Prefect Variable by which one ledger owns a machine name, and others learn what the machine has."""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from prefect_slots.errors import ConfigError, NameTaken
from prefect_slots.limits.client import Server

# A little less than the 5,000 characters of JSON that Prefect allows in a Variable.
_LONGEST = 4900
_PACKED = "packed"
_TAG = "prefect-slots"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The owner of a machine name, and the limits that it registered.

    Attributes:
        former: Ledgers that owned the name before and may have left mirrors.
        version: The release of prefect-slots that registered them.
        limits: The limits registered, with their numbers, without mirrors.
        cards: UUIDs by the GPU's number in limit names.
    """

    machine: str
    ledger_id: str
    host: str
    version: str
    limits: Mapping[str, int]
    cards: Mapping[int, str]
    former: tuple[str, ...] = ()


def variable_name(machine: str) -> str:
    """Return the name of the Variable that claims `machine`, which is allowed by Prefect and different for each."""
    # Variable names are lower case and have no dots: without the digest, `gpu.1` and `GPU-1` would share one.
    readable = re.sub(r"[^a-z0-9-]+", "-", machine.lower())[:100]
    return f"prefect-slots-{readable}-{hashlib.sha256(machine.encode()).hexdigest()[:12]}"


def encode(claim: Claim) -> dict[str, Any]:
    """Return the Variable's value: readable where it fits, packed where a machine has very many cells.

    Raises:
        ConfigError: if the packed form does not fit either.
    """
    plain: dict[str, Any] = {
        "machine": claim.machine,
        "ledger": claim.ledger_id,
        "host": claim.host,
        "version": claim.version,
        "limits": dict(sorted(claim.limits.items())),
        "cards": {str(number): uuid for number, uuid in sorted(claim.cards.items())},
        "former": list(claim.former),
    }
    text = json.dumps(plain)
    if len(text) <= _LONGEST:
        return plain
    packed = base64.b85encode(zlib.compress(text.encode(), 9)).decode()
    value = {"machine": claim.machine, "ledger": claim.ledger_id, _PACKED: packed}
    if len(json.dumps(value)) > _LONGEST:
        reason = f"{len(claim.limits)} limits and {len(claim.cards)} cards do not fit a Prefect Variable"
        raise ConfigError(source=f"registration of '{claim.machine}'", key="", reason=reason)
    return value


def decode(value: object) -> Claim | None:
    """Return the claim of a Variable's value, or `None` for a value that `encode` did not make."""
    # A person can write anything into a Variable.
    try:
        found = cast("dict[str, Any]", value)
        if _PACKED in found:
            found = json.loads(zlib.decompress(base64.b85decode(found[_PACKED])))
        return Claim(
            machine=str(found["machine"]),
            ledger_id=str(found["ledger"]),
            host=str(found["host"]),
            version=str(found["version"]),
            limits={str(name): int(number) for name, number in found["limits"].items()},
            cards={int(number): str(uuid) for number, uuid in found["cards"].items()},
            former=tuple(str(ledger) for ledger in found["former"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error):
        return None


async def read_claim(server: Server, machine: str) -> tuple[bool, Claim | None]:
    """Look up the claim of one machine name.

    Returns:
        Existence of the Variable, and the claim in it: `None` if it holds something else.

    Raises:
        ServerUnreachable: if the server does not answer.
    """
    found = await server.ask(lambda client: client.read_variable_by_name(variable_name(machine)))
    return (False, None) if found is None else (True, decode(found.value))


async def read_own_claim(server: Server, machine: str, ledger_id: str) -> tuple[bool, Claim | None]:
    """Look up the claim of one machine name as `read_claim`, for the ledger that is to have it.

    Raises:
        NameTaken: if another ledger has it.
        ServerUnreachable: if the server does not answer.
    """
    exists, found = await read_claim(server, machine)
    # A claim that cannot be read is somebody's all the same.
    if exists and (found is None or found.ledger_id != ledger_id):
        theirs, host = (found.ledger_id, found.host) if found else ("unreadable", "unknown")
        raise NameTaken(machine=machine, theirs=theirs, ours=ledger_id, host=host)
    return exists, found


async def read_claims(server: Server) -> list[Claim]:
    """Return the claims of all machines.

    Raises:
        ServerUnreachable: if the server does not answer.
    """

    async def page(client: Any, size: int, offset: int) -> list[dict[str, Any]]:
        wanted = {"variables": {"tags": {"all_": [_TAG]}}, "offset": offset, "limit": size}
        return (await client.request("POST", "/variables/filter", json=wanted)).json()

    found = await server.ask_pages(page)
    return [claim for variable in found if (claim := decode(variable["value"])) is not None]


async def write_claim(server: Server, claim: Claim, *, replace: bool) -> None:
    """Create the Variable, or overwrite it.

    Raises:
        prefect.exceptions.ObjectAlreadyExists: if it is to be created and another process was faster.
        UnknownOutcome: it may have been written; read it again.
    """
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    name, value = variable_name(claim.machine), encode(claim)
    if replace:
        update = VariableUpdate(name=name, value=value)
        await server.ask(lambda client: client.update_variable(update))
    else:
        create = VariableCreate(name=name, value=value, tags=[_TAG])
        await server.ask(lambda client: client.create_variable(create))
