"""Every bound on what comes from outside, with the reason for its number."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """Bounds of the decoders. Sizes are in bytes."""

    json_bytes: int = GIB
    """A whole json file. The largest of the benchmarks, VQAv2's train annotations, has 0.4 GB."""
    json_depth: int = 64
    """Lists and objects within one another. The deepest format has 6; Python's own limit depends on
    how deep the caller is, and would not be the same everywhere."""
    json_values: int = 50_000_000
    """Values in one json file, counted by commas and opening brackets. An empty list takes 2 bytes
    of the file and 64 of memory; VQAv2's train annotations have 21 million values."""
    json_header_bytes: int = 16 * MIB
    """A json text within another file: a .safetensors header, a tar's KEY.json."""

    line_bytes: int = 64 * MIB
    """One line of text. The longest document of C4 has below 1 MB."""
    text_bytes: int = GIB
    """A text file that is read whole, once unpacked: GLUE's largest table has 80 MB."""
    gzip_ratio: int = 200
    """Unpacked over packed size. Text packs 3 to 10 times; gzip reaches 1,032 on one repeated
    byte, which no annotation file is."""
    gzip_slack_bytes: int = 64 * MIB
    """Unpacked size up to which the ratio does not matter: a small file may well be repetitive."""
    gzip_bytes: int = 256 * GIB
    """Unpacked size of a file that is read line by line; memory is bounded by the line."""

    yaml_bytes: int = MIB
    """A YAML text, read at 0.1 MB a second. A card that lists 1,000 parts of a data set with their
    columns has about half of it."""
    yaml_expanded_bytes: int = 16 * MIB
    """The same, once its aliases are followed."""

    name_bytes: int = 1024
    """A key or file name in UTF-8: the longest key that S3 takes."""
    name_part_bytes: int = 255
    """One part of a name between slashes: the longest that Linux's file systems take."""

    tar_extension_bytes: int = MIB
    """One extended header (a long name, PAX records), which is read into memory."""
    tar_extensions: int = 16
    """Extended headers in a row. Writers use at most 3 for one member."""
    tar_padding_bytes: int = MIB
    """Zeros after the end of a tar. Writers fill up to 10,240 bytes."""

    zstd_bytes: int = GIB
    """One unpacked frame. Ours hold a MiB of text pairs, or a single one of the longest lines."""

    npy_header_bytes: int = 10_000
    """The text before an array's values: numpy's own limit."""
    array_dimensions: int = 32
    """Dimensions of an array: numpy's limit for 20 years."""
    array_bytes: int = 16 * GIB
    """All arrays of one file. The largest tower's weights and optimizer state have 4 GB."""
    array_count: int = 10_000
    """Arrays in one file: a checkpoint of the largest tower has below 2,000."""
    zip_directory_bytes: int = 32 * MIB
    """The directory of an .npz; it holds about 100 bytes for each array."""
    zip_ratio: int = 1100
    """Unpacked over packed size of one array. Deflate cannot exceed 1,032, and an array of zeros
    reaches it rightly; the file's arrays are bounded by `array_bytes`."""

    parquet_footer_bytes: int = 64 * MIB
    """The description at a file's end."""
    parquet_items: int = 100_000
    """Columns, row groups or notes in the footer."""
    parquet_schema_depth: int = 32
    """Columns within columns. `image.bytes` has 2."""
    parquet_group_bytes: int = 2 * GIB
    """Wanted columns of one row group, unpacked: it is held in memory at once. ImageNet's groups of
    100 pictures have 12 MB."""
    parquet_group_rows: int = 10_000_000
    """Rows of one row group, and items of the lists in a column of it. A column of one repeated
    number has next to no bytes for any number of rows. Writers use about 1,000,000 at most."""
    parquet_rows: int = 100_000_000
    """Rows of one file."""

    picture_bytes: int = 256 * MIB
    """A picture file as it lies."""
    picture_pixels: int = 64_000_000
    """Width times height: 192 MB as RGB."""
    decoding_bytes: int = 2 * GIB
    """Memory of all pictures that the process decodes at one time: one of the largest size, or some
    300 common photos of 0.2 megapixels."""


LIMITS = Limits()
"""What the decoders use unless told otherwise."""
