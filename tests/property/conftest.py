"""The Hypothesis profiles of the law tests; `HYPOTHESIS_PROFILE` chooses one."""

from __future__ import annotations

import os

from hypothesis import settings
from tests.property.effort import register

register()
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
