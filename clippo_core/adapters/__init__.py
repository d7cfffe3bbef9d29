"""CLIPPO in other people's suites: CLIP_benchmark (`clip_benchmark.py`) and mteb (`mteb.py`).

Neither is needed by anything else here; install them in an environment of their own.
"""
