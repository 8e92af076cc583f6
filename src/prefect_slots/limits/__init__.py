"""Prefect's global concurrency limits: the only package, besides the worker, that talks to a Prefect server.

naming        resources to limit names; knows no Prefect
outcome       the meanings of an answer: busy, too large, unknown
transport     HTTP that never repeats a change whose answer was lost
client        one kept-alive client of one server, and its errors in our words
gateway       occupy, release, renew, look up
plan          limits to create, change or leave; pure
claim         the Prefect Variable by which one ledger owns a machine name and its GPUs
rivals        other ledgers' claims on that name or those GPUs, and their signs of life
removal       deletes orphaned limits, and everything of a machine that is gone
registration  makes the server's limits equal this machine's resources
events        announces leases and releases to others, and hears of theirs
prefect_private  names that Prefect does not promise: the websocket of its subscriber, the event of a state

This package is handed numbers and decides nothing: neither scheduling nor settings are imported here.
"""
