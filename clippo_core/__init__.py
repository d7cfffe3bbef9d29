"""CLIPPO in PyTorch: one vision transformer for photos and drawn text. Knows no Flyte; works in a
notebook.
"""
