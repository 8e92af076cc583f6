"""The `requires` object: one declaration of needs, used as decorator, `with` or `async with`.

Values are checked when it is made; a callable value is called for each call, with the call's own arguments.
"""

import asyncio
import inspect
import logging
import os
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import Token
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, TypeVar

from prefect_slots.acquire import client
from prefect_slots.errors import LeaseLost
from prefect_slots.model import Request, Terms, declare, invalid, spelled
from prefect_slots.requiring import context, prefect_run, wrappers
from prefect_slots.requiring.alternatives import any_of, combined, declare_any, read_alternatives
from prefect_slots.requiring.grant import Grant
from prefect_slots.requiring.target import current_target

F = TypeVar("F", bound=Callable[..., Any])
_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, eq=False)
class _Entered:
    """An entered block: its frame, its thread and task (`here`), its grant."""

    frame: FrameType | None
    here: tuple[int, int]
    grant: Grant
    token: Token[Grant | None]


class requires:  # noqa: N801 - used as a decorator, it reads as a verb
    """Resources of this machine for a call: it starts once all are granted, and releases them however it ends.

    Use it as a decorator (below or above `@task`, on a `@flow` function, on any function, coroutine function or
    generator), as `with requires(...) as grant`, or as `async with`. Inside another grant whose total covers it, the
    request draws on that grant.

    Args:
        alternatives: Alternatives in order of preference: `requires(any_of(dict(gpu_mem=8), dict(cpus=8)))`. All other
            amounts are added to each of them.
        gpu_mem: Memory per GPU: a number of GiB, or a string with its unit (`"512MiB"`; `"8GB"` is decimal).
        gpus: Number of GPUs, default 1; without `gpu_mem` whole GPUs; `0.25` is a quarter of one GPU's memory.
        gpu: Words of the product names that will do, alternatives joined by `|`: `gpu="H100|A100 80GB"`.
        gpu_capability: Comparisons with CUDA's compute capability: `">=8.0"`.
        mem: System memory, as `gpu_mem`.
        cpus: Whole number of cores.
        license: `"matlab"` for one seat, `["a", "b"]` for one of each, `{"matlab": 2}` for counts.
        licence: Other spelling of `license`; give one of the two.
        timeout: Seconds of waiting (not of running) after which `WaitTimeout` is raised; `None` waits without limit.
        priority: Rank in the queue: a higher number is served first. (Prefect's work queues count the other way.)
        expected_seconds: Estimated seconds of running, for backfill: a short call may use resources that are reserved
            for a long one until that can start. It is no limit: a longer call is not stopped.
        any_of: The alternatives as a list: `any_of=[dict(gpu_mem=8), dict(cpus=8)]`.
        **declared: Whole numbers of resources declared in `prefect-slots.toml`: `scanner=1`.

    Any amount may be a callable; it is given the call's arguments that it names, and `attempt` (1, 2, ...).

    Attributes:
        amounts: The amounts that all alternatives have in common, as given.
        alternatives: The alternatives, or `None`.
        terms: Time limit, priority and estimate.
        asks_the_call: An amount is a callable, so the requirement is known for each call only.

    Raises:
        InvalidRequirement: at once, if a value is no amount or nothing is asked for.

    Examples:
        >>> from prefect_slots import requires
        >>> @requires(gpu_mem=8, license={"matlab": 1})
        ... def infer(image): ...
    """

    def __init__(
        self,
        alternatives: any_of | None = None,
        /,
        *,
        gpu_mem: Any = None,
        gpus: Any = None,
        gpu: Any = None,
        gpu_capability: Any = None,
        mem: Any = None,
        cpus: Any = None,
        license: Any = None,
        licence: Any = None,
        timeout: float | None = None,
        priority: int = 0,
        expected_seconds: float | None = None,
        any_of: Any = None,
        **declared: Any,
    ) -> None:
        gpu_words = {"gpu_mem": gpu_mem, "gpus": gpus, "gpu": gpu, "gpu_capability": gpu_capability}
        named = {**gpu_words, "mem": mem, "cpus": cpus, "license": license, "licence": licence}
        self.amounts = spelled({**named, **declared})
        if alternatives is not None and any_of is not None:
            raise invalid("any_of", any_of, "the alternatives are given twice")
        self.alternatives = read_alternatives(any_of if alternatives is None else alternatives)
        self.terms = Terms(timeout=timeout, priority=priority, expected_seconds=expected_seconds)
        every = combined(self.alternatives, self.amounts)
        for amounts in every:
            # A mistake beside a callable is found here, at the declaration, and not hours later at the first call.
            plain = {name: value for name, value in amounts.items() if not callable(value)}
            if "gpu_mem" in amounts.keys() - plain or "gpus" in amounts.keys() - plain:
                # `gpu` beside a callable amount of it says which GPU; by itself it would be a mistake.
                plain.setdefault("gpus", 1)
            if plain or not amounts:
                declare(**plain)
        self.asks_the_call = any(callable(value) for amounts in every for value in amounts.values())
        requirement = None if self.asks_the_call else declare_any(every)
        self._request = Request(requirement=requirement, amounts=tuple(every), **vars(self.terms))
        self._entered: list[_Entered] = []

    def __repr__(self) -> str:
        first = [] if self.alternatives is None else [repr(self.alternatives)]
        return f"requires({', '.join([*first, *(f'{name}={value!r}' for name, value in self.amounts.items())])})"

    def __getstate__(self) -> dict[str, Any]:
        # Entered blocks hold frames, which cannot be pickled, and belong to this process.
        return {**self.__dict__, "_entered": []}

    def __call__(self, target: F) -> F:
        """Return `target` (a function, a Prefect task or a Prefect flow) with every call under a grant."""
        return wrappers.wrap(self, target)

    # As a block

    def __enter__(self) -> Grant:
        """Wait for the grant and return it."""
        block = _caller(inspect.currentframe())
        return self._enter(block, self._acquire(_site(block), {}))

    def __exit__(self, kind: object, *exc: object) -> None:
        """Give the grant back.

        Raises:
            LeaseLost: with `on_lease_lost = "fail"`, if others could take its slots meanwhile.
        """
        grant = self._leave(_caller(inspect.currentframe()))
        _release(grant, insist=kind is None)

    async def __aenter__(self) -> Grant:
        """Wait for the grant without blocking the event loop, and return it."""
        block = _caller(inspect.currentframe())
        return self._enter(block, await self._acquire_async(_site(block), {}))

    async def __aexit__(self, kind: object, *exc: object) -> None:
        """Give the grant back.

        Raises:
            LeaseLost: with `on_lease_lost = "fail"`, if others could take its slots meanwhile.
        """
        grant = self._leave(_caller(inspect.currentframe()))
        await _release_async(grant, insist=kind is None)

    def _enter(self, block: FrameType | None, grant: Grant) -> Grant:
        self._entered.append(_Entered(block, _here(), grant, context.enter(grant)))
        return grant

    def _leave(self, block: FrameType | None) -> Grant:
        # Several threads and generators may have entered one object; they end in any order, a generator even in another
        # thread. The block's own frame identifies its entry. Behind an `ExitStack` only thread and task can.
        here = _here()
        if not self._entered:
            raise RuntimeError(f"{self!r} is left, and was not entered")
        # The latest first: nested blocks of one frame end in reverse. A copy, because an iterator over the list itself
        # skips entries, this block's own among them, while other threads enter and leave.
        entry = max(self._entered[::-1], key=lambda entry: 2 if entry.frame is block else int(entry.here == here))
        self._entered.remove(entry)
        context.leave(entry.token)
        return entry.grant

    # Around a call

    @contextmanager
    def granted(self, site: str, arguments: Mapping[str, Any]) -> Generator[Grant]:
        """Hold the grant for one call."""
        grant = self._acquire(site, arguments)
        try:
            yield grant
        except BaseException:
            _release(grant, insist=False)
            raise
        _release(grant, insist=True)

    @asynccontextmanager
    async def granted_async(self, site: str, arguments: Mapping[str, Any]) -> AsyncGenerator[Grant]:
        """Hold the grant for one call of a coroutine."""
        grant = await self._acquire_async(site, arguments)
        try:
            yield grant
        except BaseException:
            await _release_async(grant, insist=False)
            raise
        await _release_async(grant, insist=True)

    def _acquire(self, site: str, arguments: Mapping[str, Any]) -> Grant:
        with prefect_run.no_vain_retry():
            target, label, amounts = current_target(), _label(site), self.amounts_of(arguments)
            hooks = prefect_run.RunHooks(label)
            held = client.acquire(target, self._requested(label, amounts), hooks) if target is not None else None
        return Grant(held, target, label, context.current_grant(), amounts)

    async def _acquire_async(self, site: str, arguments: Mapping[str, Any]) -> Grant:
        with prefect_run.no_vain_retry():
            target, label, amounts = current_target(), _label(site), self.amounts_of(arguments)
            hooks = prefect_run.RunHooks(label)
            held = await client.acquire_async(target, self._requested(label, amounts), hooks) if target else None
        return Grant(held, target, label, context.current_grant(), amounts)

    def amounts_of(self, arguments: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        """Return the amounts of each alternative for one call with these arguments.

        Raises:
            InvalidRequirement: if a callable amount names an argument that the call has not.
        """
        if not self.asks_the_call:
            return self._request.amounts
        return tuple(
            {name: _resolved(name, value, arguments) for name, value in amounts.items()}
            for amounts in self._request.amounts
        )

    def request(self, label: str, arguments: Mapping[str, Any]) -> Request:
        """Return the request of one call: all that is asked for, under an id of its own.

        Args:
            label: Caller for people.
            arguments: The call's arguments by name, for callable amounts.

        Raises:
            InvalidRequirement: if a callable amount cannot be called or returns no amount.
        """
        return self._requested(label, self.amounts_of(arguments))

    def _requested(self, label: str, amounts: tuple[Mapping[str, Any], ...]) -> Request:
        return replace(
            self._request,
            id=uuid.uuid4().hex,
            requirement=self._request.requirement or declare_any(amounts),
            amounts=amounts,
            label=label,
            parent=context.enclosing(),
            run=prefect_run.run_id(),
            awaited_by=prefect_run.awaited_by(),
        )


def _release(grant: Grant, *, insist: bool) -> None:
    target, lost = _ended(grant), None
    if target is not None:
        with _kept_result(grant):
            lost = client.release(target, grant.id)
        _insist(grant, target, lost if insist else None)


async def _release_async(grant: Grant, *, insist: bool) -> None:
    target, lost = _ended(grant), None
    if target is not None:
        with _kept_result(grant):
            lost = await client.release_async(target, grant.id)
        _insist(grant, target, lost if insist else None)


@contextmanager
def _kept_result(grant: Grant) -> Generator[None]:
    # The work is done, and its result must not be lost because the ledger cannot be written. The engine tries again,
    # and the cells are free at the latest when this process ends.
    try:
        yield
    except Exception:
        _log.exception("grant %s (%s) could not be given back yet", grant.id, grant.label)


def _insist(grant: Grant, target: client.Target, lost: str | None) -> None:
    if lost is not None and target.settings.on_lease_lost == "fail":
        raise LeaseLost(limit=lost, grant=grant.id)


def _ended(grant: Grant) -> client.Target | None:
    """Mark a grant as ended, and return its target; a forked child's copy has none: the grant is its parent's."""
    grant.ended = True
    return grant.target if grant.pid == os.getpid() else None


def _resolved(name: str, value: Any, arguments: Mapping[str, Any]) -> Any:
    if not callable(value):
        return value
    known = {**arguments, "attempt": prefect_run.attempt()}
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError) as error:
        raise invalid(name, value, f"its parameters cannot be read: {error}") from None
    # A callable with `**kwargs` is not given all arguments: it names those that it uses.
    named = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p.name for p in named if p.name not in known and p.default is p.empty]
    if missing:
        offered = ", ".join(sorted(known))
        reason = f"the call has no argument '{missing[0]}'; a callable amount may name: {offered}"
        raise invalid(name, value, reason)
    given = [p for p in named if p.name in known]
    by_position = [known[p.name] for p in given if p.kind is p.POSITIONAL_ONLY]
    return value(*by_position, **{p.name: known[p.name] for p in given if p.kind is not p.POSITIONAL_ONLY})


def _here() -> tuple[int, int]:
    # Outside an event loop `current_task` raises instead of returning `None`.
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task) if task else 0


def _caller(frame: FrameType | None) -> FrameType | None:
    return frame.f_back if frame else None


def _site(block: FrameType | None) -> str:
    return f"with block ({block.f_code.co_filename.rpartition('/')[2]}:{block.f_lineno})" if block else "with block"


def _label(site: str) -> str:
    # A run's name tells two runs of one function apart in `prefect-slots status`.
    name = prefect_run.run_name()
    return f"{name} {site[site.rindex('(') :]}" if name and "(" in site else site
