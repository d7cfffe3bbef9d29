"""Public names of `measure/` under the address that callers outside this repository use."""
