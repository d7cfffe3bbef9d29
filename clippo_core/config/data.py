"""Configs of text as pixels, and of the pairs: where they come from and in which shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from clippo_core.config.check import Checked, require
from clippo_core.config.hints import Check, Count, Input, Name, PagePx, Runtime, Share, Whole


@dataclass(frozen=True)
class RenderConfig(Checked, path="render"):
    """How text becomes pixels (`rendering/`).

    Its digest, with the fonts' sha256, is the render digest of shards and checkpoints.
    """

    image_px: PagePx = 224
    """Height and width of every image, photo or rendered text, in pixels: a multiple of 16, at
    least 32."""
    layout: Literal["reference", "shaped", "words"] = "reference"
    """`reference` is big_vision's layout bit for bit; `shaped` adds bidi, joining, marks and word
    wrap; `words` begins each word at a patch border, so that equal words are equal patches."""
    monospace: bool = False
    """Give every glyph the full 16 px; the paper's runs do not."""
    fonts: tuple[Name, ...] = ()
    """Paths of Unifont .hex files, later ones filling gaps; empty = the shipped Unifont 15.0.01."""
    strict_font: bool = False
    """Raise, instead of warning, at a text whose glyphs differ between the shipped font and the
    paper's 9.0.06."""


@dataclass(frozen=True)
class SourceConfig(Checked, path="source"):
    """One source of pairs. Photo sources give image/text pairs, the others text/text pairs."""

    kind: Literal[
        "karpathy", "coco", "xm3600", "webdataset", "csv", "folder", "hf",
        "sentences", "c4", "moses", "tsv", "captions",
    ]  # fmt: skip
    """`karpathy`: Karpathy's json. `coco`: COCO's captions json. `xm3600`: one json line per image.
    `webdataset`: foreign jpg+txt/json tars. `csv`: a table with a picture's path and a caption per
    row. `folder`: `x.jpg` beside `x.txt`. `hf`: a dataset of Hugging Face's hub, or parquet files.
    `c4`: json lines with a `text`: consecutive sentences. `sentences`: one sentence per line,
    consecutive lines are a pair. `moses`: two line-aligned files. `tsv`: tab-separated first and
    second (or first language, second language, first, second). `captions`: Karpathy's json, two
    captions of a photo are a pair. `docs/sources.md` has them all."""
    path: Name
    """The annotation or text file, local or s3://; .gz is read. In the last part, `*` matches
    several files, and `{000..999}` those of a range. `folder`: the folder; `webdataset` and `hf`:
    also a folder of tars or of parquet files. `hf`: also a name on the hub, as `org/name`; what
    begins with `/`, `.` or a scheme, or ends in `.parquet`, is files."""
    images: str = ""
    """Folder of the pictures, for photo sources; `csv`: empty = the table's own folder."""
    split: str = ""
    """Which split to take, for sources that have them; empty = all (hf: `train`). Karpathy's
    `restval` counts as `train`."""
    second_path: str = ""
    """The second file of `moses`."""
    languages: tuple[Name, ...] = ()
    """Languages to take (xm3600), or of the file(s), in order (moses, tsv, c4, sentences,
    karpathy); empty = all, or `en`."""
    limit: Whole = 0
    """Take at most this many records, in the file's order; 0 = all."""
    name: str = ""
    """Name in tables and manifests; empty = the kind and the file's stem."""
    image_column: str = ""
    """Header of the column with the picture: empty = `filepath` (csv) or `image` (hf)."""
    text_column: str = ""
    """Header of the column with the caption: empty = `title` (csv) or `text` (hf)."""
    separator: Annotated[str, Check(lambda s: len(s) == 1, "it must be one character")] = "\t"
    """What stands between the columns of `csv`."""
    revision: str = ""
    """`hf`: branch, tag or commit on the hub; empty = `main`. The plan puts the commit here."""

    def check_together(self) -> None:
        """A photo source needs its pictures, and Moses its second file."""
        require(
            self.kind not in ("karpathy", "coco", "xm3600") or bool(self.images),
            f"{self.kind} source {self.path} needs `images`, the folder of its pictures.",
        )
        require(
            self.kind != "moses" or bool(self.second_path),
            f"moses source {self.path} needs `second_path`.",
        )

    @property
    def on_hub(self) -> bool:
        """Whether `path` is a name on the Hugging Face hub."""
        is_file = self.path.startswith(("/", ".")) or "://" in self.path
        return self.kind == "hf" and not is_file and not self.path.endswith(".parquet")

    @property
    def has_photos(self) -> bool:
        """Whether its records have a photo; the others are text/text pairs."""
        return self.kind not in ("sentences", "c4", "moses", "tsv", "captions")


@dataclass(frozen=True)
class DataConfig(Checked, path="data"):
    """Where the pairs come from, how they are stored, and the share of text pairs in a batch."""

    sources: Input[tuple[SourceConfig, ...]]
    """The pair sources, mixed in proportion to their sizes within photos and within texts."""
    text_pair_share: Share = 0.0
    """Share of text/text pairs in every global batch, 0..1; the count per batch is exact (largest
    remainder)."""
    records_per_shard: Input[Count] = 1000
    """Records in one tar."""
    store_drawings: Input[bool] = False
    """Write KEY.text.N.png into the shards; otherwise the loader renders live (the same bits)."""
    window_records: Count = 2**20
    """Records that the order of batches mixes at a time (`data/order.py`); a node keeps the photos
    of at most two such windows on disk."""
    block_records: Count = 128
    """Neighbours that stay together in a window, where there is more than one: less mix better,
    and more are read at once."""
    max_short_side_px: Whole = 256
    """Photos with a longer short side are shrunk to it in the shards; 0 = keep the originals'
    bytes."""
    max_bad_share: Share = 0.05
    """Validation fails above this share of unusable records, of unusable texts, or of unreadable
    tars, 0..1; below it they are left out, counted and named. A tar that is damaged, cut short,
    empty or compressed is left out whole, and counts as one tar and one record."""
    partition_bytes: Runtime[Count] = 2**30
    """Source files are measured, judged and written in partitions of about so many bytes, more
    where there would be too many (`data/partitions.py`); one file is never divided."""

    def check_together(self) -> None:
        """There are sources, of the kinds that the share of text pairs asks for."""
        require(bool(self.sources), "data.sources is empty; name at least one source of pairs.")
        share = f"data.text_pair_share is {self.text_pair_share}, but no source gives"
        require(
            self.text_pair_share == 0 or any(not source.has_photos for source in self.sources),
            f"{share} text pairs (kinds sentences, c4, moses, tsv, captions).",
        )
        require(
            self.text_pair_share == 1 or any(source.has_photos for source in self.sources),
            f"{share} photos (kinds karpathy, coco, xm3600, webdataset, csv, folder, hf).",
        )
