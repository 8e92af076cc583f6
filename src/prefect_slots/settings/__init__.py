"""Settings: `PREFECT_SLOTS_*` variables over one TOML file, checked once and read only at the edges.

file          finds the file and reads it with the variables
schema        the declared settings: keys, types, checks, defaults, meanings
convert       from TOML values and text to the tables of the schema, without pydantic
mistakes      the pydantic schema, and the words and places of mistakes
checks        contradictions between several keys
lines         the line on which a key of a TOML text stands
edits         differences between two texts of a file, key by key
declarations  from the tables to plain declarations

Only `mistakes` imports pydantic, and only a mistake or a doubtful value imports `mistakes`.
"""

from prefect_slots.settings.file import load_readable, load_settings
from prefect_slots.settings.schema import Settings

__all__ = ["Settings", "load_readable", "load_settings"]
