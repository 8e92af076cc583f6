"""Imported once by the process that workers are forked from: whatever ours and stock Prefect import while acquiring."""

from prefect.concurrency.sync import concurrency
from prefect.events.clients import PrefectEventsClient

from prefect_slots.acquire.client import acquire
from prefect_slots.limits.gateway import Gateway
from prefect_slots.requiring import requires
from prefect_slots.settings import load_settings

__all__ = ["Gateway", "PrefectEventsClient", "acquire", "concurrency", "load_settings", "requires"]
