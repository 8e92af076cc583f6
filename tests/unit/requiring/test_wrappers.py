"""`requires` around every kind of callable: each stays what it is, and holds its grant exactly while it works."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest
from tests.support.processes import SharedMachine

from prefect_slots import Grant, current_grant, requires
from prefect_slots.errors import InvalidRequirement

needs_seat = requires(license="matlab")


def held(machine: SharedMachine) -> int:
    return machine.count("held")


def current() -> Grant:
    grant = current_grant()
    assert grant is not None
    return grant


# Functions


def test_a_function_holds_while_it_runs_and_returns_its_value(machine: SharedMachine) -> None:
    @needs_seat
    def add(one: int, other: int = 2) -> int:
        """Add."""
        assert held(machine) == 1
        assert current().amounts == {"license.matlab": 1}
        return one + other

    assert add(1, other=4) == 5
    assert held(machine) == 0
    assert current_grant() is None
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert list(inspect.signature(add).parameters) == ["one", "other"]


def test_a_function_that_raises_gives_back(machine: SharedMachine) -> None:
    @needs_seat
    def fail() -> None:
        raise LookupError("its own error")

    with pytest.raises(LookupError, match="its own error"):
        fail()
    assert machine.traces().keys() == {"owner"}
    assert current_grant() is None


class Analysis:
    scale = 10

    @needs_seat
    def method(self, value: int) -> tuple[int, bool]:
        return self.scale * value, current_grant() is not None

    @needs_seat
    @classmethod
    def of_class(cls, value: int) -> tuple[int, bool]:
        return cls.scale * value, current_grant() is not None

    @needs_seat
    @staticmethod
    def static(value: int) -> tuple[int, bool]:
        return value, current_grant() is not None

    @classmethod
    @needs_seat
    def of_class_outside(cls, value: int) -> tuple[int, bool]:
        return cls.scale * value, current_grant() is not None

    @staticmethod
    @needs_seat
    def static_outside(value: int) -> tuple[int, bool]:
        return value, current_grant() is not None


def test_methods_of_every_kind(machine: SharedMachine) -> None:
    assert Analysis().method(1) == (10, True)
    assert Analysis.of_class(2) == (20, True)
    assert Analysis.static(3) == (3, True)
    assert Analysis().of_class_outside(4) == (40, True)
    assert Analysis.static_outside(5) == (5, True)
    assert held(machine) == 0


class Callables:
    def __call__(self) -> bool:
        return current_grant() is not None


class AsyncCallables:
    async def __call__(self) -> bool:
        await asyncio.sleep(0)
        return current_grant() is not None


@pytest.mark.usefixtures("machine")
def test_objects_that_can_be_called() -> None:
    assert needs_seat(Callables())() is True
    assert needs_seat(functools.partial(lambda word: (word, current_grant() is not None), "w"))() == ("w", True)
    wrapped = needs_seat(AsyncCallables())
    assert asyncio.run(wrapped()) is True, "the grant lasts as long as the coroutine"


@pytest.mark.parametrize("target", [int, 3, "text", None])
def test_what_cannot_be_decorated_is_told(target: Any) -> None:
    with pytest.raises(InvalidRequirement, match="decorates functions"):
        needs_seat(target)


# Coroutines


def test_a_coroutine_function_holds_while_it_runs(machine: SharedMachine) -> None:
    @needs_seat
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        assert held(machine) >= 1
        assert current().amounts == {"license.matlab": 1}
        return value

    async def main() -> list[int]:
        assert current_grant() is None
        found = [await work(1), *await asyncio.gather(work(2), work(3))]
        assert current_grant() is None
        return found

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(main()) == [1, 2, 3]
    assert held(machine) == 0


@pytest.mark.usefixtures("machine")
def test_each_task_of_a_loop_has_its_own_grant() -> None:
    seen: set[str] = set()
    both = asyncio.Event()

    @needs_seat
    async def work() -> None:
        mine = current().id
        seen.add(mine)
        if len(seen) == 2:
            both.set()
        await both.wait()
        assert current().id == mine

    async def main() -> None:
        await asyncio.gather(work(), work())

    asyncio.run(main())
    assert len(seen) == 2


# Generators


def test_a_generator_holds_from_its_first_value_to_its_end(machine: SharedMachine) -> None:
    closed: list[str] = []

    @needs_seat
    def steps(first: int) -> Generator[Any, Any, str]:
        try:
            got = yield first, current().id
            try:
                got = yield got, current().id
            except LookupError as error:
                got = yield f"caught {error}", current().id
            return f"returned {got}"
        finally:
            closed.append(current().id if current_grant() else "nothing")

    assert inspect.isgeneratorfunction(steps)
    generator = steps(1)
    assert held(machine) == 0, "nothing is asked for before the first value"
    value, grant = next(generator)
    assert value == 1
    assert held(machine) == 1
    assert current_grant() is None, "between its values the grant is not the consumer's"
    assert generator.send("sent") == ("sent", grant)
    assert generator.throw(LookupError("thrown")) == ("caught thrown", grant)
    assert current_grant() is None
    with pytest.raises(StopIteration) as stop:
        generator.send("last")
    assert stop.value.value == "returned last"
    assert closed == [grant]
    assert held(machine) == 0


@pytest.mark.parametrize("end", ["close", "drop", "raise", "throw"])
def test_a_generator_that_ends_early_cleans_up_and_gives_back(machine: SharedMachine, end: str) -> None:
    closed: list[bool] = []

    @needs_seat
    def steps() -> Generator[int]:
        try:
            yield 1
            raise LookupError("its own error")
        finally:
            closed.append(current_grant() is not None)

    generator = steps()
    next(generator)
    match end:
        case "close":
            generator.close()
        case "drop":
            del generator
        case "raise":
            with pytest.raises(LookupError, match="its own"):
                next(generator)
        case _:
            with pytest.raises(KeyError, match="thrown"):
                generator.throw(KeyError("thrown"))
    assert closed == [True]
    assert held(machine) == 0


@pytest.mark.usefixtures("machine")
def test_a_consumer_s_own_request_is_not_served_from_the_generator_s_grant() -> None:
    @needs_seat
    def steps() -> Generator[str]:
        yield current().id

    for grant in steps():
        with needs_seat as own:
            assert own.parent is None
            assert own.id != grant


def test_an_asynchronous_generator_holds_from_its_first_value_to_its_end(machine: SharedMachine) -> None:
    @needs_seat
    async def steps(first: int) -> AsyncGenerator[Any, Any]:
        got = yield first, current().id
        try:
            got = yield got, current().id
        except LookupError as error:
            got = yield f"caught {error}", current().id
        yield got, current().id

    async def main() -> None:
        generator = steps(1)
        assert held(machine) == 0
        value, grant = await anext(generator)
        assert value == 1
        assert held(machine) == 1
        assert current_grant() is None
        assert await generator.asend("sent") == ("sent", grant)
        assert await generator.athrow(LookupError("thrown")) == ("caught thrown", grant)
        assert await generator.asend("last") == ("last", grant)
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert held(machine) == 0

    assert inspect.isasyncgenfunction(steps)
    asyncio.run(main())


@pytest.mark.parametrize("end", ["aclose", "drop", "loop ends", "raise"])
def test_an_asynchronous_generator_that_ends_early_cleans_up_and_gives_back(
    machine: SharedMachine, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    closed: list[bool] = []

    @needs_seat
    async def steps() -> AsyncGenerator[int]:
        try:
            yield 1
            raise LookupError("its own error")
        finally:
            await asyncio.sleep(0)
            closed.append(current_grant() is not None)

    async def main() -> None:
        generator = steps()
        await anext(generator)
        assert held(machine) == 1
        match end:
            case "aclose":
                await generator.aclose()
                assert held(machine) == 0
            case "drop":
                del generator
                while not closed or held(machine):
                    await asyncio.sleep(0.01)
            case "raise":
                with pytest.raises(LookupError, match="its own"):
                    await anext(generator)
                assert held(machine) == 0
            case _:
                keep.append(generator)

    keep: list[Any] = []
    asyncio.run(main())
    # A loop that ends closes inner and outer generators at once, and asyncio tells of those that were closed already.
    assert closed == [True] or (end == "loop ends" and len(closed) == 1)
    assert not caplog.records or end == "loop ends"
    machine.until_empty(but=("owner",))


# What Prefect sees


def one(value: int) -> int:
    return value + 1


def two(value: int) -> int:
    return value + 2


def test_wrappers_of_different_functions_have_different_code() -> None:
    wrapped: list[Callable[..., Any]] = [needs_seat(one), needs_seat(two)]
    codes = [function.__code__ for function in wrapped]  # pyright: ignore[reportFunctionMemberAccess]
    assert codes[0] != codes[1]
    assert needs_seat(one).__code__ == codes[0], "and of the same function the same"
    assert codes[0].co_filename == __file__
    assert codes[0].co_firstlineno == one.__code__.co_firstlineno


def test_the_code_of_a_wrapper_does_not_depend_on_who_else_refers_to_its_constants() -> None:
    source = "def work(value):\n    return ['alpha-beta', value, 'gamma delta', 123456789]\n"
    namespaces: list[dict[str, Any]] = [{}, {}]
    code = compile(source, "work.py", "exec")
    exec(code, namespaces[0])
    before = needs_seat(namespaces[0]["work"]).__code__
    kept = [list(namespaces[0]["work"].__code__.co_consts), namespaces[0]["work"].__code__.co_code]
    exec(compile(source, "work.py", "exec"), namespaces[1])
    assert needs_seat(namespaces[0]["work"]).__code__ == before == needs_seat(namespaces[1]["work"]).__code__
    assert kept
