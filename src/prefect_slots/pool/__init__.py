"""`SlotPool`: a process pool whose tasks run when this machine can give them what they need.

pool        the executor that people use
supervisor  a pool's tasks and processes: carries out the dispatcher's decisions; the task runner's seam
dispatch    who does what next: tasks, grants and processes, decided under one lock
grants      grants for queues of tasks of one shape, asked for in the ledger
worker      one task process at work: given tasks one after another, killed and replaced where need be
process     a task process: its start, its end, and what a task has left in it
pinning     what a process is bound to from birth: cards, cores, numbers of threads
submission  what one submitted call asks for
task        a submitted task, its future, and the executor interface that returns it
wire        messages between pool and task process, large parts in shared memory
by_value    pickles of what a task process cannot import, with its source for tracebacks
child       the task process's own program
nested      the pool as a task within it sees it
progress    a map's progress on the terminal

Importing this package imports nothing: task processes start from it.
"""
