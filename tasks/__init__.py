"""Boxes of the Flyte console: one file is one kind of box. A task opens its artifacts, makes one
core call, draws its deck, returns.
"""
