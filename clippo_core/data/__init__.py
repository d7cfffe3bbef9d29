"""From annotation files to batches: sources -> validation -> shards -> batches by (seed, step); and
the embedded world of numbers.

    sources        every kind of source -> records
    expectations   what is usable, through Great Expectations
    pairs          records, captions by epoch, exact shares
    shards         records -> WebDataset tars, indexes, a manifest
    text_frames    text pairs -> json lines in zstd frames
    index_file     indexes on disk, read by range
    images         bytes -> uint8 pixels, the reference's resize
    order          which records stand in a step's batch
    loader         the batches of a rank
    numbers        handwritten numbers in the benchmarks' formats

Nothing is imported here: most of these modules are light, and a few are not.
"""
