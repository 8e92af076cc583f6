"""`SlotPool`: a process pool whose tasks run once this machine can grant their needs.

pool        the public executor, with the methods for users only
supervisor  threads, requests and ends of tasks: carries out the dispatcher's decisions; the task runner's seam
dispatch    the next step for queued tasks, grants and processes, decided under one lock
grants      grants for queues of tasks of one shape, requested of the ledger
worker      a task process at work: gets tasks one after another, is killed and replaced
process     a task process: its pin, its start, its end, and the traces of tasks in it
task        a submitted task: its request, its future, and the executor interface that returns it
wire        messages between pool and task process, large parts in shared memory
by_value    pickles of objects that a task process cannot import, with their source for tracebacks
child       the program of a task process
nested      the handle of a pool within its tasks
progress    a map's progress on the terminal

Importing this package imports nothing: task processes start from it.
"""
