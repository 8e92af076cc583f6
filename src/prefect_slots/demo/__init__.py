"""Real flow runs on a private Prefect server, watched and measured, with nothing left behind.

scene  photographs, the flow, this machine's GPUs or the declared ones
stage  a temporary folder and the processes in it, ended in every case
api    the part of the private server's REST API that the demo uses
acts   flow runs triggered, watched until they have ended, and measured
play   both acts: the flow runs all at once, then one after another
"""
