"""`SlotTaskRunner`: the pool as a Prefect task runner.

runner      the task runner that flows name
needs       what a submitted task asks for: its function's decoration, and `SlotTaskRunner.options` around the submit
run         one submitted task run, and the future that the flow holds
context     the submitter's Prefect context, as it is sent to a task process
upstream    the futures that a task waits for, waited for without a thread
telling     what the flow's process says of a task run to the server: that it waits, that it ended without its process
forwarding  events and logs of task processes, on their way to the server through the flow's process
child       what a task process does: the run itself, by Prefect's own engine
ray         the names of prefect-ray, so that a flow written for it needs one line changed

Importing this package imports nothing: task processes start from it.
"""
