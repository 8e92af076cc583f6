"""The claim: a Prefect Variable by which one ledger owns a machine name and its GPUs, and shows that it lives."""

import base64
import hashlib
import json
import re
import time
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from prefect_slots.errors import ConfigError
from prefect_slots.limits.client import Server

# A little less than the 5,000 characters of JSON that Prefect allows in a Variable.
_LONGEST = 4900
_PACKED = "packed"
_TAG = "prefect-slots"
_VARIABLE = "prefect-slots-"
_UNIQUE = re.compile(r"(?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The owner of a machine name, and the limits that it registered.

    Attributes:
        boot: Id of the boot of its kernel, which containers of one host share; empty if it is not known.
        heartbeat: Seconds between two writes of the claim while a worker runs; 0 if none has run.
        refused: UUIDs of GPUs that the ledger wanted and another one has.
        former: Ledgers that owned the name before and may have left mirrors.
        version: The release of prefect-slots that registered them.
        limits: The limits registered, with their numbers, without mirrors.
        giving: The numbers that a registration under way is giving, or one that was broken off.
        owned: Fleet limits whose number this machine declares for all, with the time of the declaration. The latest
            declaration counts, so each is later than those before it, whatever the machines' clocks show.
        cards: UUIDs by the GPU's number in limit names.
    """

    machine: str
    ledger_id: str
    host: str
    version: str
    limits: Mapping[str, int]
    cards: Mapping[int, str]
    former: tuple[str, ...] = ()
    boot: str = ""
    heartbeat: float = 0.0
    refused: tuple[str, ...] = ()
    giving: Mapping[str, int] = field(default_factory=dict[str, int])
    owned: Mapping[str, datetime] = field(default_factory=dict[str, datetime])

    def shares(self, gpus: Collection[str], boot: str) -> tuple[str, ...]:
        """Return those of `gpus`, of a machine in boot `boot`, that are GPUs of this claim.

        Keys made of a place on the bus name one GPU only within one kernel; a vendor's UUID is unique.
        """
        alike = self.boot != "" and self.boot == boot
        return tuple(sorted(gpu for gpu in {*self.cards.values()} & {*gpus} if alike or _UNIQUE.fullmatch(gpu)))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A claim's Variable as the server has it; times are Unix seconds by the server's clock.

    Attributes:
        variable: The Variable's name.
        claim: `None` if it holds something else.
        read_at: Time of the answer.
    """

    variable: str
    claim: Claim | None
    created_at: float
    written_at: float
    read_at: float


def variable_name(machine: str) -> str:
    """Return the name of the Variable that claims `machine`, which is allowed by Prefect and different for each."""
    # Variable names are lower case and have no dots: without the digest, `gpu.1` and `GPU-1` would share one.
    readable = re.sub(r"[^a-z0-9-]+", "-", machine.lower())[:100]
    return f"{_VARIABLE}{readable}-{hashlib.sha256(machine.encode()).hexdigest()[:12]}"


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
        "boot": claim.boot,
        "heartbeat": claim.heartbeat,
        "refused": list(claim.refused),
    }
    if claim.giving:
        plain["giving"] = dict(sorted(claim.giving.items()))
    if claim.owned:
        plain["owned"] = {name: since.isoformat() for name, since in sorted(claim.owned.items())}
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
            # Releases before these wrote claims without them.
            boot=str(found.get("boot", "")),
            heartbeat=float(found.get("heartbeat", 0)),
            refused=tuple(str(gpu) for gpu in found.get("refused", ())),
            giving={str(name): int(number) for name, number in found.get("giving", {}).items()},
            owned={str(name): _moment(since) for name, since in found.get("owned", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error):
        return None


def _moment(text: str) -> datetime:
    since = datetime.fromisoformat(text)
    # Without an offset it could not be compared with the others.
    return since if since.tzinfo is not None else since.replace(tzinfo=UTC)


async def read_claims(server: Server) -> list[Standing]:
    """Return the claims of all machines.

    Raises:
        ServerUnreachable: if the server does not answer.
        UnknownOutcome: its answer was lost; nothing was changed.
    """

    async def page(client: Any, size: int, offset: int) -> list[Standing]:
        # By name and not by tag: a person may have taken the tag off, and the name is taken all the same.
        wanted = {"variables": {"name": {"like_": _VARIABLE}}, "offset": offset, "limit": size, "sort": "NAME_ASC"}
        answer = await client.request("POST", "/variables/filter", json=wanted)
        now = _server_time(answer.headers.get("date"))
        return [
            Standing(
                variable=variable["name"],
                claim=decode(variable["value"]),
                created_at=datetime.fromisoformat(variable["created"]).timestamp(),
                written_at=datetime.fromisoformat(variable["updated"]).timestamp(),
                read_at=now,
            )
            for variable in answer.json()
        ]

    return await server.ask_pages(page)


def _server_time(date: str | None) -> float:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        # A proxy may drop the header; then this machine's own clock has to do.
        return time.time()


async def write_claim(server: Server, claim: Claim, *, replace: bool) -> None:
    """Create the Variable, or overwrite it.

    Raises:
        prefect.exceptions.ObjectAlreadyExists: if it is to be created and another process was faster.
        prefect.exceptions.ObjectNotFound: if it is to be overwritten and is gone.
        UnknownOutcome: it may have been written; read it again.
    """
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate
    from prefect.exceptions import ObjectNotFound

    name, value = variable_name(claim.machine), encode(claim)
    if replace:
        update = VariableUpdate(name=name, value=value)
        try:
            await server.ask(lambda client: client.update_variable(update), expected=(404,))
        except httpx.HTTPStatusError as error:
            # Prefect's client has no error of its own for it: another ledger took the claim over meanwhile.
            raise ObjectNotFound(error) from error
    else:
        create = VariableCreate(name=name, value=value, tags=[_TAG])
        await server.ask(lambda client: client.create_variable(create))


async def delete_claim(server: Server, variable: str) -> None:
    """Delete a claim's Variable.

    Raises:
        prefect.exceptions.ObjectNotFound: if it is gone already.
        UnknownOutcome: it may have been deleted.
    """
    await server.ask(lambda client: client.delete_variable_by_name(variable))
