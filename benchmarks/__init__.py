"""Measurements, ours and its peers' side by side in one run; what counts is the ratio.

startup      what `prefect-slots run` adds to a command
handoff      from the end of one holder's body to the next one's start
uncontended  acquire and release when nobody is in the way
server_load  HTTP requests for each grant while many wait
recovery     from `kill -9` of a holder to the next one's start
makespan     twenty items through a step with two slots
packing      makespan of tasks that need several resources, in virtual time
scale        one grant in the ledger while up to 10,000 wait
fleet        from machine to machine, over a floating licence
runner       a flow of three tasks for forty items, by each task runner
pool         `SlotPool` beside Ray, Dask and a bare process pool

What they share:

case            a number, a bar, the registry of benchmarks
numbers, table  what is made of times, and how it is shown
stage           a real server, limits on it, machines registered with it
crew            worker processes that hold something when told to
preloaded       what those have imported before they are forked
relay           one slot that goes from hand to hand
three_steps     that flow, in a process of its own
pool_peers      those pools, each in a process of its own
pool_session    such a process from outside: its memory, its end
pool_tasks      what the pools are given to do
workload        tasks to pack, and what no schedule of them beats
policies        schedulers in virtual time
optimum         the shortest schedule of a few tasks
counting_proxy  counts what a server is asked
"""
