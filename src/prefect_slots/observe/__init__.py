"""What happened and what is, for people and programs.

status    who holds which cell since when, who waits for what and why
timeline  who held which card when, as rows and laid out as a picture
picture   boxes, lines and words as SVG and PNG
"""
