"""`SlotPool`: a process pool whose tasks run when this machine can give them what they need.

pool        the executor that people use
submission  what one submitted call asks for
task        a submitted task and its future, which can be cancelled while it runs
dispatch    who does what next: tasks, grants and processes, decided under one lock
grants      grants for queues of tasks of one shape, asked for in the ledger
supervisor  one thread per task process: starts it, gives it tasks, sees its end
process     a task process as the pool sees it
pinning     what a process is bound to from birth: cards, cores, numbers of threads
remains     what an ended task has left in its process, and who killed one
wire        messages between pool and task process, large parts in shared memory
by_value    pickles of what a task process cannot import, with its source for tracebacks
child       the task process's own program
nested      the pool as a task within it sees it
progress    a map's progress on the terminal

Importing this package imports nothing: task processes start from it.
"""
