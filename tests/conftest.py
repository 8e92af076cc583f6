"""What all tests share: nothing of the user's Prefect profile, settings or environment reaches a test."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

for _name in [name for name in os.environ if name.startswith(("PREFECT", "WORKER_ID"))]:
    del os.environ[_name]
# Before any test imports Prefect, which reads its home folder when imported.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-slots-tests-")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
# A command that a test runs without a state folder of its own uses the ledger there, and not this user's.
os.environ["HOME"] = os.environ["PREFECT_HOME"]
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
# A shell starts background jobs with SIGINT ignored, which every process that a test starts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
