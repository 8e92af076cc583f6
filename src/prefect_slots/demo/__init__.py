"""Real flow runs on a private Prefect server, watched and measured, with nothing left behind.

scene  what is played: photographs, the flow, this machine's cards or the declared ones
stage  where it is played: a temporary folder and the processes in it, ended whatever happens
api    the private server's REST API, as far as the demo asks it
acts   flow runs triggered, watched until they have ended, and measured
play   the whole piece: all at once, then one after another
"""
