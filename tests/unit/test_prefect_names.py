"""Prefect's names in this package: its private ones stand in two files, and the installed Prefect has each of them."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest
from prefect.events.clients import PrefectCloudEventSubscriber, PrefectEventSubscriber

import prefect_slots

SOURCE = Path(prefect_slots.__file__).parent
PRIVATE_FILES = {"limits/prefect_private.py", "task_runner/prefect_private.py"}
# Modules that Prefect's guides tell users to import from; all names of other modules count as private.
PUBLIC_MODULES = {
    "prefect",
    "prefect.client.orchestration",
    "prefect.client.schemas.actions",
    "prefect.client.schemas.objects",
    "prefect.client.schemas.responses",
    "prefect.events",
    "prefect.events.clients",
    "prefect.events.filters",
    "prefect.exceptions",
    "prefect.futures",
    "prefect.logging",
    "prefect.settings",
    "prefect.states",
    "prefect.task_runners",
    "prefect.workers.process",
}
# Names of other modules that the guides do show: the contexts of a run, the logger in the guide to worker types.
PUBLIC_NAMES = {
    ("prefect.context", "FlowRunContext"),
    ("prefect.context", "SettingsContext"),
    ("prefect.context", "TaskRunContext"),
    ("prefect.logging.loggers", "get_worker_logger"),
}
# Each private name, and the Prefect versions that were seen to have it: both ends of the tested range.
SEEN = ("3.6.20", "3.9.1")
PRIVATE = {
    ("prefect.context", "AssetContext"): SEEN,
    ("prefect.context", "SyncClientContext"): SEEN,
    ("prefect.context", "TagsContext"): SEEN,
    ("prefect.context", "hydrated_context"): SEEN,
    ("prefect.context", "serialize_context"): SEEN,
    ("prefect.engine", "handle_engine_signals"): SEEN,
    ("prefect.events.worker", "EventsWorker"): SEEN,
    ("prefect.events.worker", "ProcessPoolForwardingEventsClient"): SEEN,
    ("prefect.logging.handlers", "emit_api_log"): SEEN,
    ("prefect.logging.handlers", "set_api_log_sink"): SEEN,
    ("prefect.logging.loggers", "task_run_logger"): SEEN,
    ("prefect.settings.context", "get_current_settings"): SEEN,
    ("prefect.task_engine", "run_task_async"): SEEN,
    ("prefect.task_engine", "run_task_sync"): SEEN,
    ("prefect.utilities.annotations", "quote"): SEEN,
    ("prefect.utilities.asyncutils", "run_coro_as_sync"): SEEN,
    ("prefect.utilities.collections", "StopVisiting"): SEEN,
    ("prefect.utilities.collections", "visit_collection"): SEEN,
    ("prefect.utilities.engine", "emit_task_run_state_change_event"): SEEN,
    ("prefect.utilities.engine", "resolve_inputs_sync"): SEEN,
    ("prefect.utilities.engine", "resolve_to_final_result"): SEEN,
}


def _imports() -> set[tuple[str, str, str]]:
    """Return file, module and name of every import from Prefect."""
    found: set[tuple[str, str, str]] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "prefect":
                found |= {(str(path.relative_to(SOURCE)), node.module or "", alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {
                    (str(path.relative_to(SOURCE)), alias.name, "")
                    for alias in node.names
                    if alias.name.partition(".")[0] == "prefect"
                }
    return found


def test_private_names_stand_in_two_files_and_are_all_listed():
    imports = _imports()
    private = {
        (file, module, name)
        for file, module, name in imports
        if module not in PUBLIC_MODULES and (module, name) not in PUBLIC_NAMES
    }
    assert {file for file, _, _ in private} == PRIVATE_FILES
    assert {(module, name) for _, module, name in private} == set(PRIVATE)
    assert not [name for _, module, name in imports if name.startswith("_") or "._" in module]


@pytest.mark.parametrize(("module", "name"), sorted(PRIVATE))
def test_the_installed_prefect_has_each_private_name(module: str, name: str):
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize("kind", [PrefectEventSubscriber, PrefectCloudEventSubscriber])
def test_a_subscriber_keeps_its_websocket_where_it_is_read(kind: type[object]):
    sources = [inspect.getsource(one) for one in kind.__mro__ if one is not object and "prefect" in one.__module__]
    assert any("self._websocket" in source for source in sources)
