"""From annotation files to batches: sources -> validation -> shards -> batches by (seed, step); and
the embedded world of numbers.

    images      bytes -> uint8 pixels, the reference's resize     expectations   what is usable, through Great Expectations
    sources     every kind of source -> records                   shards         records -> WebDataset tars, indexes, a manifest
    pairs       records, captions by epoch, exact shares          order          which records stand in a step's batch
    numbers     handwritten numbers in the benchmarks' formats    loader         a rank's batches

Nothing is imported here: most of these modules are light, and a few are not.
"""
