"""What was set, once it is checked: plain values, for which no library is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from prefect_slots.model.declaration import Declarations

ENV_PREFIX: Final = "PREFECT_SLOTS_"
CONFIG_VARIABLE: Final = "PREFECT_SLOTS_CONFIG"
WORKER_ID: Final = "WORKER_ID"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that was set. Made by hand it holds the defaults; see `load_settings`.

    Attributes:
        worker: This machine's name in limit names, as it was written; `None` leaves it to `WORKER_ID` or the host name.
        state_dir: Absolute folder of the ledger; `None` leaves the choice to the ledger.
        max_overtakes: How many later tickets may pass one that does not fit; 0 is strict order.
        when_server_is_away: Whether requests for what is this machine's own go on, wait or fail while the Prefect
            server does not answer; what the fleet shares always waits.
        on_lease_lost: What becomes of a task whose slots were, for a while, free for others to take.
        refresh_seconds: Seconds between two looks at what the machine has.
        detect_seconds: Seconds after which a detector that does not answer is left behind, and what it looks for is
            unknown.
        use_seconds: Seconds between two looks at what others use of it.
        hold_seconds: How long the most that others were seen to use of a card is kept free for them.
        stale_after: How often in a row nobody must have answered before what was known last is called stale.
        enforce: What becomes of the command of a `prefect-slots run`, or of a pool's task, that uses more memory than
            it declared.
        source: Path of the file that was read, or `"defaults"`.
        declarations: What the file says about the machine.
    """

    worker: str | None = None
    state_dir: Path | None = None
    coordination: Literal["auto", "both", "local", "off"] = "auto"
    auto_register: bool = False
    max_overtakes: int = 20
    when_server_is_away: Literal["continue", "wait", "fail"] = "continue"
    on_lease_lost: Literal["keep", "fail"] = "keep"
    refresh_seconds: float = 30
    detect_seconds: float = 20
    use_seconds: float = 5
    hold_seconds: float = 30
    stale_after: int = 3
    enforce: Literal["warn", "kill"] = "warn"
    source: str = "defaults"
    declarations: Declarations = field(default_factory=Declarations)
