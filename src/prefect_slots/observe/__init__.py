"""The present and the past of a machine, for people and programs.

status    cells with their holders, waiting tickets with their reasons
reason    the reason for which a ticket waits, with the word that is believed on foreign use
timeline  holdings over time, laid out as a picture
picture   boxes, lines and words as SVG and PNG
"""
