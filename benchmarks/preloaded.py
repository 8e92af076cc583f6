"""Imported once by the process that workers are forked from: whatever ours and stock Prefect import while acquiring."""

import prefect.concurrency.sync
import prefect.events.clients

import prefect_slots.acquire.request
import prefect_slots.limits.gateway
import prefect_slots.requiring
import prefect_slots.settings

__all__ = ["prefect", "prefect_slots"]
