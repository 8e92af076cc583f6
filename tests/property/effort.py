"""How hard a law is tried: by default for a few seconds, under `soak` with 100,000 examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SOAK = 100_000


def effort(examples: int, steps: int = 40) -> settings:
    """Return settings for a test that runs `examples` examples in fifteen seconds at most on one slow core."""
    profile = os.environ.get("HYPOTHESIS_PROFILE", "default")
    return settings(
        settings.get_profile(profile),
        max_examples=SOAK if profile == "soak" else examples,
        stateful_step_count=steps,
    )


def register() -> None:
    """Make the profiles: `default`, `ci` (prints what reproduces a failure) and `soak`."""
    common = settings(
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    settings.register_profile("default", common)
    settings.register_profile("ci", common, print_blob=True)
    settings.register_profile("soak", common, print_blob=True, max_examples=SOAK)
