"""The present and the past of a machine, for people and programs.

status    cells with their holders, waiting tickets with their reasons
timeline  holdings over time, laid out as a picture
picture   boxes, lines and words as SVG and PNG
"""
