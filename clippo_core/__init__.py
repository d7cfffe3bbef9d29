"""CLIPPO in PyTorch: one vision transformer for photos and rendered text. Knows no Flyte; works
in a notebook.
"""
