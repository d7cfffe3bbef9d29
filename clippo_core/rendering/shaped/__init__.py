"""The opt-in layout `shaped`: right-to-left order, joined letters, marks and word wrap.

shaping.py    the layout itself, from texts to placed glyphs
bidi.py       right-to-left order      joining.py   Arabic letters that join
wrapping.py   where a row may break
"""
