"""What people set: `PREFECT_SLOTS_*` variables over one TOML file, checked once and read only at the edges.

schema   what may be written, and what each value must be
contradictions  what several keys contradict each other in
declarations    from the tables to plain declarations
locate   the line on which a key of a TOML text stands, for messages
load     finds the file, lays the variables over it, reports the first mistake with its place

Importing this package imports pydantic; import it where settings are needed, not at the top of modules that a child
process of a task loads.
"""

from prefect_slots.settings.load import load_settings
from prefect_slots.settings.schema import Settings

__all__ = ["Settings", "load_settings"]
