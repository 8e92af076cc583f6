"""What is wrong with a machine, and what to do about it.

examine  looks at everything that can be wrong with a machine
counts   the server's limits against what this machine has and holds
fix      reaps the dead and makes the server's counts true, for whoever asks for it now
facts    what was looked at to tell what is wrong
checks   what is wrong, and what to do about it
"""
