"""A remote traceback shows the user's file, line and source, also of functions that no task process can import."""

from __future__ import annotations

import linecache
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from tests.support.processes import SharedMachine

from prefect_slots import SlotPool
from prefect_slots.pool import by_value

CELL = "ratio = 7\ndef compare(number):\n    return ratio // number\n"
SCRIPT = """\
from prefect_slots import SlotPool

class Camera:
    def focus(self):
        raise OSError("the lens is stuck")

def infer():
    Camera().focus()

if __name__ == "__main__":
    with SlotPool() as pool:
        try:
            pool.submit(infer).result(30)
        except OSError as error:
            print(error.__cause__)
"""


def remote(pool: SlotPool, function: Callable[..., Any], *args: Any) -> str:
    """Return the traceback that a call has in its task process."""
    with pytest.raises(ZeroDivisionError) as caught:
        pool.submit(function, *args).result(30)
    return str(caught.value.__cause__)


def cell(name: str, source: str) -> dict[str, Any]:
    """Run a notebook cell as IPython does: its lines are in this process's `linecache` only."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def shows(function: Callable[..., Any], line: int, source: str) -> str:
    """Return the part of a traceback that tells of a line of a function."""
    code = function.__code__
    return f'  File "{code.co_filename}", line {code.co_firstlineno + line}, in {code.co_name}\n    {source}\n'


def test_a_closure(pool: SlotPool) -> None:
    ratio = 7

    def compare(number: int) -> int:
        return ratio // number

    assert shows(compare, 1, "return ratio // number") in remote(pool, compare, 0)


def test_a_lambda(pool: SlotPool) -> None:
    compare: Callable[[int], int] = lambda number: 7 // number  # noqa: E731

    assert shows(compare, 0, "compare: Callable")[:-1] in remote(pool, compare, 0)


def test_a_notebook_cell(pool: SlotPool) -> None:
    compare = cell("<ipython-input-3-a1b2>", CELL)["compare"]
    assert shows(compare, 1, "return ratio // number") in remote(pool, compare, 0)


def test_a_script_with_a_class(machine: SharedMachine, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], env=machine.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert f'  File "{script}", line 8, in infer\n    Camera().focus()\n' in done.stdout
    assert f'  File "{script}", line 5, in focus\n    raise OSError("the lens is stuck")\n' in done.stdout


def test_lines_travel_only_where_no_file_has_them() -> None:
    outer = 2
    from_cell = cell("<ipython-input-4-c3d4>", CELL)["compare"]
    assert b"ratio // number" in by_value.dumps(from_cell)
    assert b"return outer" not in by_value.dumps(lambda: outer)  # return outer
    unknown: dict[str, Any] = {}
    exec(compile(CELL, "<string>", "exec"), unknown)
    assert by_value.dumps(unknown["compare"]).count(b"ratio // number") == 0


def test_inner_functions_and_results_keep_their_source_on_every_way() -> None:
    made = cell("<ipython-input-5-e5f6>", "def outer():\n    def inner():\n        return 1 // 0\n    return inner\n")
    there = pickle.loads(by_value.dumps(made["outer"]))
    linecache.cache.pop("<ipython-input-5-e5f6>")
    back = pickle.loads(by_value.dumps(pickle.loads(by_value.dumps(there()))))
    assert back.__code__.co_filename == "<ipython-input-5-e5f6>"
    with pytest.raises(ZeroDivisionError):
        back()


def test_a_module_that_travels_by_value_too() -> None:
    from tests.unit.pool import calls

    cloudpickle.register_pickle_by_value(calls)
    try:
        assert pickle.loads(by_value.dumps(calls.double)).__code__ == calls.double.__code__
    finally:
        cloudpickle.unregister_pickle_by_value(calls)
