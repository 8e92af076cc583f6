"""What people set: `PREFECT_SLOTS_*` variables over one TOML file, checked once and read only at the edges.

values        what was set, once it is checked
file          finds and reads the file, and has it checked
kept          what was checked before and is the same
checking      lays the variables over the file, reports the first mistake with its place
schema        what may be written, and what each value must be
checks        what several keys contradict each other in
declarations  from the tables to plain declarations
lines         the line on which a key of a TOML text stands, for messages

Checking imports pydantic; nothing else here does.
"""

from prefect_slots.settings.file import load_settings
from prefect_slots.settings.values import Settings

__all__ = ["Settings", "load_settings"]
