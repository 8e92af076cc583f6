"""`SlotTaskRunner`: the pool as a Prefect task runner.

runner      the task runner that flows name
run         one submitted task run, the future that the flow holds, and the states that the flow's process gives it
needs       what a submit takes from its surroundings: needs, and Prefect's context as it is sent to a task process
upstream    the futures that a task waits for, waited for without a thread
forwarding  events and logs of task processes, on their way to the server through the flow's process
child       what a task process does: the run itself, by Prefect's own engine
ray         the names of prefect-ray, so that a flow written for it needs one line changed

Importing this package imports nothing: task processes start from it.
"""
