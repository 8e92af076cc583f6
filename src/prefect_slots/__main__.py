"""`python -m prefect_slots`: the same command as `prefect-slots`."""

from prefect_slots.cli import main

main()
