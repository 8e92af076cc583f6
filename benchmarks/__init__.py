"""Measurements, ours and a peer's side by side in one run; what counts is the ratio.

startup   what `prefect-slots run` adds to a command
"""
