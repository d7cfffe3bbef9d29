"""Pictures, sources of pairs, the sentence splitter and the choice of captions."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clippo_core.config import DataConfig, SourceConfig
from clippo_core.data import pairs
from clippo_core.data.images import decode_image, fewshot_crop, squash
from clippo_core.data.sources import annotation_files, tars
from clippo_core.data.sources import kinds as sources
from clippo_core.data.sources.splitter import split_sentences
from clippo_core.errors import ConfigError, DataError, EvaluationError, ImageError, ShardError
from clippo_core.evaluate import gallery
from clippo_core.untrusted.limits import LIMITS

# ---------------------------------------------------------------- pictures


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def naive_squash(image: np.ndarray, px: int) -> np.ndarray:
    """tf.image.resize, bilinear, half-pixel centres, no antialiasing, one output at a time, in
    float32; then truncation.
    """
    height, width, channels = image.shape
    out = np.zeros((px, px, channels), np.uint8)
    for y in range(px):
        in_y = np.float32(
            np.float32(y + 0.5) * (np.float32(height) / np.float32(px)) - np.float32(0.5)
        )
        y0, y1 = max(math.floor(in_y), 0), min(math.ceil(in_y), height - 1)
        for x in range(px):
            in_x = np.float32(
                np.float32(x + 0.5) * (np.float32(width) / np.float32(px)) - np.float32(0.5)
            )
            x0, x1 = max(math.floor(in_x), 0), min(math.ceil(in_x), width - 1)
            fx, fy = np.float32(in_x - np.floor(in_x)), np.float32(in_y - np.floor(in_y))
            for c in range(channels):
                a, b, d, e = (
                    np.float32(image[i, j, c]) for i, j in ((y0, x0), (y0, x1), (y1, x0), (y1, x1))
                )
                upper, lower = a + (b - a) * fx, d + (e - d) * fx
                out[y, x, c] = int(upper + (lower - upper) * fy)
    return out


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (32, 32), (17, 64), (64, 41), (31, 33)])
def test_squash_is_the_reference_resize(size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert (squash(image, 32) == naive_squash(image, 32)).all()


def test_squash_agrees_with_torch_to_a_level() -> None:
    """An independent kernel (other order of additions, so now and then the truncation falls on the
    other side).
    """
    import torch

    image = np.random.default_rng(0).integers(0, 256, (256, 341, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    theirs = (
        torch.nn.functional.interpolate(tensor, (224, 224), mode="bilinear", align_corners=False)[0]
        .permute(1, 2, 0)
        .to(torch.uint8)
    )
    difference = np.abs(theirs.numpy().astype(int) - squash(image, 224))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001


def test_fewshot_crop_is_the_middle_of_256() -> None:
    image = np.random.default_rng(1).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    assert (fewshot_crop(image) == squash(image, 256)[16:240, 16:240]).all()
    assert fewshot_crop(image, 64).shape == (64, 64, 3)


def gradient(mode: str) -> Image.Image:
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (30, 1))] * 3, axis=2)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"),
        ("RGB", "BMP"),
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("CMYK", "JPEG"),
        ("RGB", "WEBP"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    picture = gradient(mode)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    decoded = decode_image(encoded(picture, kind, **options))
    assert decoded.shape == (30, 40, 3) and decoded.dtype == np.uint8
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(decoded.astype(int) - expected).max() <= (4 if kind == "JPEG" else 0)


def test_transparency_lies_on_white() -> None:
    layers = np.zeros((4, 4, 4), np.uint8)
    layers[:2] = (10, 20, 30, 255)
    decoded = decode_image(encoded(Image.fromarray(layers, "RGBA")))
    assert (decoded[:2] == (10, 20, 30)).all() and (decoded[2:] == 255).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    assert decode_image(encoded(palette, transparency=0)).tolist() == [
        [[255, 255, 255], [200, 0, 0]]
    ]


def test_sixteen_bits_keep_the_high_byte() -> None:
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    decoded = decode_image(encoded(Image.fromarray(values)))
    assert (decoded == (values >> 8).astype(np.uint8)[:, :, None]).all()
    assert decoded.mean() == pytest.approx(126, abs=1)  # PIL's own conversion saturates: mean 254


def test_exif_orientation_is_applied_and_broken_exif_ignored() -> None:
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(encoded(picture, "PNG", exif=exif))
    assert (turned == np.rot90(np.asarray(picture), -1)).all()
    assert decode_image(encoded(picture, "PNG", exif=b"Exif\0\0garbage")).shape == (2, 3, 3)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    decoded = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (decoded == (255, 0, 0)).all()


def test_sources_of_a_picture_agree(tmp_path: Path) -> None:
    data = encoded(gradient("RGB"))
    (tmp_path / "a.png").write_bytes(data)
    as_bytes = decode_image(data)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(io.BytesIO(data))):
        assert (decode_image(source) == as_bytes).all()


def bad_pictures() -> dict[str, bytes]:
    jpeg, png = encoded(gradient("RGB"), "JPEG"), encoded(gradient("RGB"))
    return {
        "empty": b"",
        "text": b"this is no picture",
        "html": b"<html><body>404</body></html>",
        "zeros": bytes(1000),
        "jpeg cut in half": jpeg[: len(jpeg) // 2],
        "jpeg header only": jpeg[:20],
        "png cut in half": png[: len(png) // 2],
        "png without end": png[:60],
        "png signature only": png[:8],
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "float": encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
        "huge": huge_png(20_000, 10_000),
    }


def huge_png(width: int, height: int) -> bytes:
    """A PNG of 200 megapixels in few bytes: black, so that it packs well."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", list(bad_pictures()))
def test_bad_pictures_are_refused_by_name(name: str) -> None:
    with pytest.raises(ImageError, match="picture-7"):
        decode_image(bad_pictures()[name], "picture-7")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_picture_costs_no_memory() -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(ImageError, match=f"{LIMITS.picture_pixels:,}"):
        decode_image(huge_png(9000, 9000))
    with pytest.raises(ImageError):
        decode_image(huge_png(60_000, 60_000))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def test_missing_and_odd_paths_are_image_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path, str(tmp_path / "a\0b.jpg")):
        with pytest.raises(ImageError):
            decode_image(path)


def survives(kind: str, cuts: list[int], seed: int) -> None:
    """Bytes changed or cut anywhere: pixels, or an ImageError; no other exception, no hang."""
    data = bytearray(encoded(gradient("RGB"), kind))
    rng = np.random.default_rng(seed)
    for cut in cuts:
        data[cut % len(data)] = int(rng.integers(256))
    if len(cuts) % 2:
        data = data[: 1 + cuts[0] % len(data)]
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(data)).dtype == np.uint8


DAMAGE = given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]),
    cuts=st.lists(st.integers(0, 10**6), max_size=6),
    seed=st.integers(0, 2**32),
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=200, deadline=4000)
@DAMAGE
def test_damaged_pictures_either_decode_or_raise_image_error(
    kind: str, cuts: list[int], seed: int
) -> None:
    survives(kind, cuts, seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=2000, deadline=4000)
@DAMAGE
def test_two_thousand_damaged_pictures(kind: str, cuts: list[int], seed: int) -> None:
    survives(kind, cuts, seed)


# ---------------------------------------------------------------- captions and shares


def test_each_caption_once_in_as_many_epochs() -> None:
    counts = np.array([1, 2, 5, 5, 7])
    hashes = np.array([pairs.key_hash(f"k{n}") for n in range(5)], np.uint64)
    chosen = np.stack([pairs.choose_text(counts, hashes, 3, epoch) for epoch in range(70)])
    for record, count in enumerate(counts):
        for cycle in range(70 // count):
            assert sorted(chosen[cycle * count : (cycle + 1) * count, record]) == list(range(count))
    assert (
        chosen != np.stack([pairs.choose_text(counts, hashes, 4, epoch) for epoch in range(70)])
    ).any()
    assert (chosen[:, 2] != chosen[:, 3]).any()  # another key, another order


def test_choice_does_not_depend_on_the_company() -> None:
    counts, hashes = np.full(100, 5), np.arange(100, dtype=np.uint64)
    together = pairs.choose_text(counts, hashes, 0, 11)
    assert together.tolist() == [
        int(pairs.choose_text(counts[n : n + 1], hashes[n : n + 1], 0, 11)[0]) for n in range(100)
    ]
    assert set(
        np.bincount(pairs.choose_text(np.full(5000, 5), np.arange(5000, dtype=np.uint64), 0, 0))
        > 850
    ) == {True}


@given(total=st.integers(1, 20_000), shares=st.lists(st.floats(0.001, 1), min_size=1, max_size=5))
def test_apportion_is_exact_and_near(total: int, shares: list[float]) -> None:
    counts = pairs.apportion(total, shares)
    assert sum(counts) == total
    assert all(
        abs(count - total * share / sum(shares)) < 1 + 1e-6
        for count, share in zip(counts, shares, strict=True)
    )


def test_text_pairs_per_batch() -> None:
    assert [pairs.text_pairs_per_batch(10_240, share) for share in (0, 0.25, 0.5, 0.75, 1)] == [
        0,
        2560,
        5120,
        7680,
        10_240,
    ]
    assert pairs.text_pairs_per_batch(92, 0.25) == 23 and pairs.text_pairs_per_batch(10, 1 / 3) == 3


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "He met Mr. Smith and J. R. Tolkien. Then he left.",
            ["He met Mr. Smith and J. R. Tolkien.", "Then he left."],
        ),
        ('"I am here," he said. "Are you?" Yes.', ['"I am here," he said.', '"Are you?"', "Yes."]),
        (
            "It cost 3.50 dollars, e.g. a lot. ok. 5 more came.",
            ["It cost 3.50 dollars, e.g. a lot. ok.", "5 more came."],
        ),
        ("Title\nA line.\n\n Another one. ", ["Title", "A line.", "Another one."]),
        ("これは本です。あれは？はい。", ["これは本です。", "あれは？", "はい。"]),
        ("", []),
        ("...", ["..."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@given(st.text(max_size=300))
def test_splitting_loses_no_character(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


# ---------------------------------------------------------------- sources: real slices


def read(kind: str, path: Path, images: Path, **options: Any) -> list[Any]:
    """All records of a source of photos, none with a problem."""
    records = list(
        sources.read_source(SourceConfig(kind, str(path), images=str(images), **options))
    )
    assert records and not [record.problem for record in records if record.problem]
    return records


def test_karpathy_and_coco_slices(slices: Path) -> None:
    coco = slices / "coco_captions"
    train = read("karpathy", coco / "dataset_coco.json", coco, split="train")
    assert len(train) == 64 and all(
        len(record.texts) >= 5 and Path(record.image).is_file() for record in train
    )
    theirs = {
        record.key: record.texts
        for record in read("coco", coco / "annotations/captions_train2017.json", coco / "train2017")
    }
    assert {record.key: sorted(record.texts) for record in train} == {
        key: sorted(texts) for key, texts in theirs.items()
    }
    flickr = read(
        "karpathy",
        slices / "flickr8k/dataset_flickr8k.json",
        slices / "flickr8k/Flicker8k_Dataset",
        split="test",
    )
    raw = json.loads((slices / "flickr8k/dataset_flickr8k.json").read_text())["images"]
    assert [r.texts for r in flickr] == [
        tuple(s["raw"] for s in e["sentences"]) for e in raw if e["split"] == "test"
    ] and len(flickr) == 712


def test_xm3600_slices(slices: Path) -> None:
    emoji = slices / "emoji36"
    records = read("xm3600", emoji / "captions.jsonl", emoji / "images")
    assert len(records) == 1603 and all(Path(record.image).is_file() for record in records)
    assert len({language for record in records for language in record.languages}) == 36
    only = read("xm3600", emoji / "captions.jsonl", emoji / "images", languages=("quz",))
    assert {language for record in only for language in record.languages} == {"quz"}


def test_text_slices(slices: Path) -> None:
    c4 = list(sources.read_source(SourceConfig("c4", str(slices / "c4_like/c4-sample.*.json.gz"))))
    files = [
        gzip.decompress((slices / f"c4_like/c4-sample.{name}.json.gz").read_bytes())
        for name in ("01", "02")
    ]
    documents = [json.loads(line)["text"] for file in files for line in file.splitlines()]
    assert len(c4) == sum(len(split_sentences(text)) // 2 for text in documents) > 100
    whole = "\n".join(documents)
    assert all(record.first in whole and record.texts[0] in whole for record in c4)
    moses = SourceConfig(
        "moses",
        str(slices / "multi30k_text/train.en.gz"),
        second_path=str(slices / "multi30k_text/train.de.gz"),
        languages=("en", "de"),
        limit=50,
    )
    records = list(sources.read_source(moses))
    english = (
        gzip.decompress((slices / "multi30k_text/train.en.gz").read_bytes())
        .decode()
        .split("\n")[:50]
    )
    assert [record.first for record in records] == [line.strip() for line in english] and records[
        0
    ].languages == ("en", "de")
    parallel = list(
        sources.read_source(SourceConfig("tsv", str(slices / "wmt21_newstest/parallel.tsv")))
    )
    assert (
        len(parallel) == 15201
        and not any(record.problem for record in parallel)
        and len({record.languages for record in parallel}) == 20
    )
    sentences = list(
        sources.read_source(SourceConfig("sentences", str(slices / "c4_like/sentences.txt")))
    )
    assert len(sentences) == 2343 // 2


# ---------------------------------------------------------------- sources: formats, by hand


def karpathy_file(folder: Path, images: list[object]) -> str:
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "x"}))
    return str(path)


def test_karpathy_details(tmp_path: Path) -> None:
    sentences = [{"raw": "a"}, {"raw": "b", "language": "de"}]
    path = karpathy_file(
        tmp_path,
        [
            {
                "filename": "1.jpg",
                "filepath": "val2014",
                "split": "restval",
                "sentences": sentences,
                "group": "g",
            },
            {"filename": "2.jpg", "split": "test", "sentences": sentences},
        ],
    )
    (record,) = read("karpathy", Path(path), Path("photos"), split="train")
    assert (record.image, record.texts, record.languages, record.group) == (
        "photos/val2014/1.jpg",
        ("a", "b"),
        ("en", "de"),
        "g",
    )


def test_captions_of_one_photo_are_pairs_in_its_group(tmp_path: Path) -> None:
    captions = [{"raw": "a dog"}, {"raw": "a hound"}, {"raw": "ein Hund", "language": "de"}]
    path = karpathy_file(
        tmp_path,
        [
            {"filename": "a.jpg", "split": "train", "sentences": captions},
            {"filename": "b.jpg", "split": "train", "sentences": captions[:1]},
            {"filename": "c.jpg", "split": "test", "sentences": captions},
            {"filename": "d.jpg", "split": "train", "sentences": [{"raw": 7}, {"raw": "x"}]},
            {"split": "train"},
        ],
    )
    source = SourceConfig("captions", path, split="train", name="s")
    found = list(sources.read_source(source))
    assert [(r.key, r.first, r.texts, r.languages, r.group) for r in found[:2]] == [
        ("a-0", "a dog", ("a hound",), ("en", "en"), "a"),
        ("a-1", "a hound", ("ein Hund",), ("en", "de"), "a"),
    ]
    assert [bool(r.problem) for r in found] == [False, False, True, True]
    photos = SourceConfig("karpathy", path, str(tmp_path), split="train", name="p")
    groups = [record.group for record in sources.read_source(photos)]
    assert groups[:2] == ["a", "b"], "a photo and the pairs about it never meet"


def test_bad_entries_become_problems_and_are_refused_by_evaluations(tmp_path: Path) -> None:
    good = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a"}]}
    bad = [
        {"filename": "2.jpg"},
        "nonsense",
        {**good, "filename": "../../etc/passwd"},
        {**good, "sentences": [{"tokens": []}]},
        {**good, "filename": 3},
    ]
    path = karpathy_file(tmp_path, [good, *bad])
    records = list(sources.read_source(SourceConfig("karpathy", path, images="photos")))
    assert [bool(record.problem) for record in records] == [False] + [True] * len(bad)
    assert records[1].problem.startswith("image 1 of")
    with pytest.raises(DataError, match="image 1 of"):
        gallery.usable(records, "here")
    number = karpathy_file(tmp_path, [{**good, "sentences": [{"raw": 5}]}])
    with pytest.raises(DataError, match="must be a text"):
        gallery.usable(
            list(sources.read_source(SourceConfig("karpathy", number, images="photos"))), "here"
        )
    with pytest.raises(EvaluationError, match="split"):
        gallery.usable([], "here")


@pytest.mark.parametrize(
    "content", [b"", b'{"images": [', b"[]", b'{"images": {}}', b"\xff\xfe", b"[" * 100_000]
)
def test_broken_annotation_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    for kind in ("karpathy", "coco"):
        with pytest.raises(DataError, match="broken.json"):
            list(sources.read_source(SourceConfig(kind, str(path), images="photos")))


@pytest.mark.parametrize(
    "kind", ["karpathy", "coco", "xm3600", "webdataset", "sentences", "c4", "tsv"]
)
def test_missing_annotation_file_is_named(tmp_path: Path, kind: str) -> None:
    for name in ("nowhere.json", "nowhere-*.json"):
        with pytest.raises(DataError, match="nowhere"):
            list(sources.read_source(SourceConfig(kind, str(tmp_path / name), images="photos")))


def test_text_formats(tmp_path: Path) -> None:
    tsv = tmp_path / "a.tsv"
    tsv.write_bytes(
        (
            'one\tzwei "x"\r\nen\tde\tthree\tvier\nen\tde\tfive\tsechs\tg5\na\tb\tc\n\xff\tx\n\n'
        ).encode("latin-1")
    )
    records = list(sources.read_source(SourceConfig("tsv", str(tsv), languages=("en", "de"))))
    assert [(r.first, r.texts, r.languages, r.group) for r in records[:3]] == [
        ("one", ('zwei "x"',), ("en", "de"), ""),
        ("three", ("vier",), ("en", "de"), ""),
        ("five", ("sechs",), ("en", "de"), "g5"),
    ]
    assert "3 columns" in records[3].problem and "UTF-8" in records[4].problem and len(records) == 5
    text = tmp_path / "s.txt"
    text.write_text("a\nb\nc\n\nd\ne\nf\n")
    assert [
        (r.first, r.texts[0]) for r in sources.read_source(SourceConfig("sentences", str(text)))
    ] == [("a", "b"), ("d", "e")]
    c4 = tmp_path / "c.json"
    c4.write_text('{"text": "One. Two. Three."}\nnot json\n{"txt": 1}\n{"text": 5}\n[1]\n')
    found = list(sources.read_source(SourceConfig("c4", str(c4))))
    assert [(r.first, r.texts) for r in found if not r.problem] == [("One.", ("Two.",))] and sum(
        bool(r.problem) for r in found
    ) == 4


def test_unaligned_and_damaged_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("1\n2\n3\n")
    (tmp_path / "a.de").write_text("1\n2\n")
    with pytest.raises(DataError, match="not aligned"):
        list(
            sources.read_source(
                SourceConfig("moses", str(tmp_path / "a.en"), second_path=str(tmp_path / "a.de"))
            )
        )
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"text": "A. B."}\n' * 5000)[:80])
    with pytest.raises(DataError, match="b.json.gz"):
        list(sources.read_source(SourceConfig("c4", str(tmp_path / "b.json.gz"))))


def test_lines_are_those_of_a_whole_read(tmp_path: Path) -> None:
    content = b"a\r\n\nb\xc2\x85c\xe2\x80\xa8d\n" + b"x" * (2**22 + 5) + b"\nlast"
    (tmp_path / "f").write_bytes(content)
    assert [line.text for line in annotation_files.lines(str(tmp_path / "f"))] == [
        line.removesuffix(b"\r").decode() for line in content.split(b"\n")
    ]


def test_names_of_sources_and_ids_of_records(tmp_path: Path) -> None:
    entry = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a"}]}
    path = karpathy_file(tmp_path, [entry, entry, {**entry, "filename": "2.jpg"}])
    data = DataConfig(
        (
            SourceConfig("karpathy", path, images="p", name="one"),
            SourceConfig("karpathy", path, images="p"),
        )
    )
    assert sources.source_names(data) == ["one", "karpathy-dataset"]
    assert [key for key, _ in sources.read_records("one", data.sources[0])] == [
        "one/1",
        "one/1@1",
        "one/2",
    ]
    for names in (("a", "a"), ("a/b", "c"), ("ü", "c")):
        with pytest.raises(ConfigError):
            sources.source_names(
                DataConfig(
                    tuple(SourceConfig("karpathy", path, images="p", name=name) for name in names)
                )
            )


# ---------------------------------------------------------------- foreign tars


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_foreign_tars_as_img2dataset_writes_them(tmp_path: Path) -> None:
    jpeg = encoded(gradient("RGB"), "JPEG")
    path = write_tar(
        tmp_path / "00000.tar",
        [
            ("000000001.jpg", jpeg), ("000000001.txt", "a cat ü".encode()),
            ("000000001.json", b'{"caption": "other"}'),
            ("000000002.json", b'{"caption": "from json"}'), ("000000002.jpg", jpeg),
            ("000000003.jpg", jpeg),
            ("000000004.txt", b"no picture"),
            ("../../../../tmp/x.jpg", jpeg), ("../../../../tmp/x.txt", b"climbing"),
            ("000000005.jpg", jpeg), ("000000005.txt", b"\xff\xfe"),
        ],
    )  # fmt: skip
    records = list(sources.read_source(SourceConfig("webdataset", str(path))))
    assert [(r.key, r.texts, bool(r.problem)) for r in records] == [
        ("00000/000000001", ("a cat ü",), False),
        ("00000/000000002", ("from json",), False),
        ("00000/000000003", (), True),
        ("00000/000000004", (), True),
        ("00000/../../../../tmp/x", (), True),
        ("00000/000000005", (), True),
    ]
    assert all(tars.picture_bytes(record.image) == jpeg for record in records if not record.problem)
    assert sorted(tmp_path.iterdir()) == [path]


def test_tars_like_the_webdataset_library(tmp_path: Path) -> None:
    """Keys and members as webdataset groups them."""
    import webdataset

    members = [
        ("a/b.c.jpg", b"1"),
        ("a/b.txt", b"2"),
        ("d.JPG", b"3"),
        ("d.txt", b"4"),
        ("e.txt", b"5"),
    ]
    path = write_tar(tmp_path / "x.tar", members)
    theirs = [
        (s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    with open(path, "rb") as file:
        data = file.read()
    ours = [
        (e.key, {k: data[o : o + s] for k, (o, s) in e.members.items()}) for e in tars.entries(path)
    ]
    assert ours == theirs


def test_damaged_tars(tmp_path: Path) -> None:
    whole = write_tar(
        tmp_path / "a.tar",
        [("1.jpg", b"x" * 5000), ("1.txt", b"y"), ("2.jpg", b"z" * 5000), ("2.txt", b"w")],
    ).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in (0, 100, 511, 600, 5000, 6000, end - 100, end):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(ShardError, match="cut.tar"):
            tars.entries(tmp_path / "cut.tar")
    (tmp_path / "cut.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(ShardError):
        tars.entries(tmp_path / "cut.tar")
    header = bytearray(whole)
    header[148:156] = b"0000000\0"
    (tmp_path / "cut.tar").write_bytes(header)
    with pytest.raises(ShardError):
        tars.entries(tmp_path / "cut.tar")


def test_links_and_devices_in_tars_are_passed_over(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "links.tar", [("0.jpg", b"x"), ("0.txt", b"y")])
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("1.jpg", tarfile.SYMTYPE),
            ("1.txt", tarfile.LNKTYPE),
            ("2.jpg", tarfile.CHRTYPE),
            ("2.txt", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert [entry.key for entry in tars.entries(path)] == ["0"]
    assert [r.key for r in sources.read_source(SourceConfig("webdataset", str(path)))] == [
        "links/0"
    ]
