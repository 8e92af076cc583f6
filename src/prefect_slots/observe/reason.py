"""The reason for which a request waits: what is missing, and the word of others that is believed about foreign use."""

import time

from prefect_slots.ledger import changed, registry, transaction, usage
from prefect_slots.model import GPU_MEM, MIB, Book, Requirement, format_amount
from prefect_slots.scheduling.explain import is_stranded, shortages


def ago(since: float, now: float | None = None) -> str:
    """Return the time since a Unix time: `"3m12s"`."""
    seconds = max(0, int((time.time() if now is None else now) - since))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def reason(tx: transaction.Transaction, book: Book, requirement: Requirement, ticket: str) -> str:
    """Return the reason for which a ticket of the queue waits now, in words for people."""
    lowered = [str(each) for each in changed.read(tx) if each.resource in requirement.resources]
    if lowered and is_stranded(book, requirement, ticket):
        waits = f"waits for {requirement.describe()}: {'; '.join(lowered)}"
    elif is_stranded(book, requirement, ticket):
        waits = f"waits for {requirement.describe()}: what others use, or is broken, leaves too little on every cell"
    else:
        missing = shortages(book, requirement, ticket)
        waits = "; ".join(map(str, missing)) or f"waits its turn for {requirement.describe()}"
    return "; ".join((waits, *_witnesses(tx, requirement)))


def _witnesses(tx: transaction.Transaction, requirement: Requirement) -> list[str]:
    """Return a sentence for each resource of which others use some, or of which that is not told any more."""
    shown = usage.read_outside(tx)
    told: list[str] = []
    for resource in registry.registered(tx).resources:
        cells = resource.cells if resource.name in requirement.resources else ()
        seen = {cell.id: shown[cell.id] for cell in cells if cell.present and cell.id in shown}
        used = {cell: each for cell, each in seen.items() if each.used or each.why}
        if not used:
            continue
        gpus = resource.name == GPU_MEM
        parts = [
            f"{format_amount(each.used or 0, MIB)} of gpu {cell.number}"
            if gpus
            else f"{each.used or 0} of {resource.name}"
            for cell, each in used.items()
        ]
        oldest = min(each.seen_at or 0.0 for each in used.values())
        age = f"{ago(oldest, tx.now)} ago" if oldest else "never told"
        doubt = next((each for each in used.values() if each.why), None)
        why = f"; {'no answer since: ' if doubt.misses else ''}{doubt.why}" if doubt is not None else ""
        told.append(f"others use {', '.join(parts)} ({resource.origin}, {age}{why})")
        named = [f"{programs} on gpu {cell.number}" for cell, programs in registry.users(tx).items() if cell in used]
        if named:
            remedy = "list those that do not matter in [gpus] ignore, or raise [gpus] display for a desktop"
            told.append(f"in the way: {'; '.join(named)}; {remedy}")
    return told
