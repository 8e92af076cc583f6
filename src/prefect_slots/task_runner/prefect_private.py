"""Private names of Prefect that a task runner needs: contexts that travel, the task engine, forwarded events and logs.

Prefect's own runners and its integrations for Ray and Dask use the same ones, and its reference promises none. Each is
imported in this file only; `tests/unit/test_prefect_names.py` names the versions that have them.
"""

# pyright: reportUnusedImport=false
# ruff: noqa: F401
from prefect.context import AssetContext, SyncClientContext, TagsContext, hydrated_context, serialize_context
from prefect.engine import handle_engine_signals
from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
from prefect.logging.handlers import emit_api_log, set_api_log_sink
from prefect.logging.loggers import task_run_logger
from prefect.settings.context import get_current_settings
from prefect.task_engine import run_task_async, run_task_sync
from prefect.utilities.annotations import quote
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.collections import StopVisiting, visit_collection
from prefect.utilities.engine import resolve_inputs_sync, resolve_to_final_result
