"""The demo's data: handwritten numbers, in the benchmarks' file formats."""
