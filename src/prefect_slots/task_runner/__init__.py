"""`SlotTaskRunner`: the pool as a Prefect task runner.

runner      `SlotTaskRunner`, the task runner for flows
run         one submitted task run, the future that the flow holds, and the states that the flow's process gives it
needs       the surroundings of a submit: needs by decoration and options, and Prefect's context
upstream    the futures that a task depends on, waited for without a thread
forwarding  events and logs of task processes, on their way to the server through the flow's process
child       the run of a task in its process, by Prefect's own engine
prefect_private  names that Prefect does not promise: contexts that travel, its task engine
ray         the names of prefect-ray, so that a flow written for it needs one line changed

Importing this package imports nothing: task processes start from it.
"""
