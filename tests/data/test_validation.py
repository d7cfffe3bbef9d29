"""Validation through Great Expectations: a corpus of bad input, each piece named, counted and left
out, or the run stopped; and no leak.
"""

from __future__ import annotations

import collections
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared import Validated, validated, written

from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    ImagenetConfig,
    RenderConfig,
    RetrievalConfig,
    SourceConfig,
    VqaConfig,
    Xm3600Config,
    presets,
)
from clippo_core.data import loader
from clippo_core.data.pairs import MAX_KEY_CHARACTERS, key_hash
from clippo_core.data.sources.kinds import read_source
from clippo_core.data.validate.evaluated import taken
from clippo_core.data.validate.plain import MIN_CAPTION_BYTES, plain_hash, plain_text, stem_hash
from clippo_core.errors import DataError
from clippo_core.rendering import Renderer
from clippo_core.report.decks import validation_deck

RENDER = RenderConfig(image_px=64)
NOTHING = EvaluateConfig()


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_set(
    folder: Path, captions: dict[str, list[object]], files: dict[str, bytes] | None = None
) -> SourceConfig:
    """A Karpathy set: file name -> captions; pictures are sound unless `files` says otherwise."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    images = []
    for number, (name, texts) in enumerate(captions.items()):
        real = name.partition("!")[0]
        content = (files or {}).get(real, jpeg(number))
        if content != b"missing":
            (folder / "photos" / real).write_bytes(content)
        images.append(
            {"filename": real, "split": "train", "sentences": [{"raw": text} for text in texts]}
        )
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return SourceConfig(
        "karpathy", str(folder / "dataset.json"), images=str(folder / "photos"), name="set"
    )


def judged(
    *sources: SourceConfig,
    max_bad_share: float = 1.0,
    evaluate: EvaluateConfig | None = None,
    share: float = 0.0,
) -> Validated:
    """Below the folder of the first source."""
    data = DataConfig(sources, max_bad_share=max_bad_share, text_pair_share=share)
    return validated(Path(sources[0].path).parent / "run", data, RENDER, evaluate)


def failed(found: Validated) -> dict[str, int]:
    """Expectation -> failures, of those with any."""
    return {
        expectation.name: expectation.failed
        for expectation in found.report.expectations
        if expectation.failed
    }


def corpus(folder: Path) -> SourceConfig:
    """21 sound photos and every kind of bad one."""
    whole = jpeg(999)
    sixteen = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)).save(
        sixteen, "PNG"
    )
    captions: dict[str, list[object]] = {
        f"good-{n:03d}.jpg": [f"sound caption {n}", f"another {n}"] for n in range(20)
    }
    files: dict[str, bytes] = {}
    for name, content in {
        "sixteen.png": sixteen.getvalue(),
        "corrupt.jpg": whole[:100] + bytes(200) + whole[300:400],
        "empty.jpg": b"",
        "cut.jpg": whole[: len(whole) // 2],
        "missing.jpg": b"missing",
        "html.jpg": b"<html>not found</html>",
        "bomb.png": bomb(20_000, 10_000),
        "dot.png": jpeg(7, (3, 3)),
    }.items():
        captions[name], files[name] = [f"photo {name}"], content
    captions["blank-text.jpg"] = ["", "a sound one"]
    captions["only-blank.jpg"] = ["  \n"]
    captions["long.jpg"] = ["word " * 200_000, "short"]
    captions["number.jpg"] = [5, "five"]
    captions["none.jpg"] = [None]
    captions["half-character.jpg"] = ["broken \ud800", "whole"]
    captions["same-twice.jpg"] = ["same", "same"]
    captions["no-text.jpg"] = []
    for name in ("good-003.jpg!again", "good-011.jpg!again"):
        captions[name] = ["another entry of the same photo"]
    return write_set(folder, captions, files)


def bomb(width: int, height: int) -> bytes:
    """A PNG's header for so many pixels, and next to no content."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_corruption_corpus(tmp_path: Path) -> None:
    found = judged(corpus(tmp_path))
    assert set(found.excluded) == {
        "set/corrupt", "set/empty", "set/cut", "set/missing", "set/html", "set/bomb", "set/dot",
        "set/blank-text#0", "set/only-blank#0", "set/long#0", "set/number#0",
        "set/none#0", "set/half-character#0", "set/same-twice#1",
        "set/no-text", "set/good-003@1", "set/good-011@1",
    }  # fmt: skip
    assert failed(found) == {
        "no key occurs twice in a source": 2,
        "every record has a text": 1,
        "every photo can be read and decoded whole": 6,
        "every photo's sides are at least 8 px": 1,
        "no photo comes twice": 4,
        "every text is a string of Unicode characters": 3,
        "no text is empty": 2,
        "no text is longer than 10,000 characters": 1,
        "no record has a text twice": 1,
        "every text fits on the page": 1,
        "no text comes twice": 4,
    }
    assert (found.report.n_records, found.report.n_excluded) == (38, 17)
    expectations = found.report.expectations
    assert all(len(one.worst) == min(3, one.failed) for one in expectations)
    worst = {one.name: one.worst for one in expectations}
    assert "0 bytes" in " ".join(worst["every photo can be read and decoded whole"])
    assert worst["no text is longer than 10,000 characters"] == ["set/long#0: 1000000"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_left_trains(tmp_path: Path) -> None:
    """Bad rows are left out, counted exactly, and the rest goes through shards and loader."""
    data = DataConfig((corpus(tmp_path),), max_bad_share=1.0)
    found = validated(tmp_path / "run", data, RENDER)
    manifest = written(tmp_path / "run", data, RENDER, found.judged)
    left = {
        "set/sixteen",
        "set/blank-text",
        "set/long",
        "set/number",
        "set/half-character",
        "set/same-twice",
    }
    left |= {f"set/good-{n:03d}" for n in range(20)}
    assert manifest.n_pairs == len(left)
    encode = Renderer.from_config(RENDER)
    batches = loader.batches(
        manifest, data, image_px=64, batch_pairs=13, seed=0, text_encoder=encode, steps=16
    )
    assert {key for batch in batches for key in batch.keys} == left


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_bad_rows_stop_the_run_and_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"10 of 38 records are unusable, more than data.max_bad_share = 5.00%: .*set/corrupt",
    ):
        judged(corpus(tmp_path), max_bad_share=0.05)
    one_bad = write_set(
        tmp_path / "one",
        {f"photo-{n:03d}.jpg": [f"text {n}"] for n in range(50)},
        {"photo-007.jpg": b"x"},
    )
    found = judged(one_bad, max_bad_share=0.05)
    assert list(found.excluded) == ["set/photo-007"]
    assert all(expectation.passed for expectation in found.report.expectations)
    with pytest.raises(DataError, match="set/photo-007"):
        judged(one_bad, max_bad_share=0.0)


def test_a_key_that_is_too_long_is_counted_and_left_out(tmp_path: Path) -> None:
    keys = [f"{n:03d}" for n in range(9)] + ["k" * (MAX_KEY_CHARACTERS - len("web/")), "k" * 250]
    with tarfile.open(tmp_path / "web.tar", "w") as tar:
        for number, key in enumerate(keys):
            for extension, content in (("jpg", jpeg(number)), ("txt", f"text {number}".encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = SourceConfig("webdataset", str(tmp_path / "web.tar"), name="set")
    found = judged(source)
    assert list(found.excluded) == [f"set/web/{keys[-1]}"]
    [left_out] = found.report.excluded
    assert "254 characters, more than 200; shorten it" in left_out.examples[0]
    assert sum(failed(found).values()) == 1
    with pytest.raises(DataError, match="1 of 11 records are unusable"):
        judged(source, max_bad_share=0.05)
    data = DataConfig((source,), max_bad_share=1.0)
    assert written(tmp_path / "run", data, RENDER, found.judged).n_pairs == 10


def test_a_sound_set_passes_every_expectation(tmp_path: Path) -> None:
    tsv = tmp_path / "s.tsv"
    tsv.write_text("".join(f"en\tde\tsentence {n}\tsatz {n}\n" for n in range(30)))
    source = write_set(tmp_path, {f"photo-{n:03d}.jpg": [f"text {n}"] for n in range(10)})
    found = judged(source, SourceConfig("tsv", str(tsv), name="s"), max_bad_share=0.0, share=0.5)
    report = found.report
    assert not found.excluded and not report.excluded and not failed(found)
    assert (report.n_records, report.data_digest) == (40, "digest")
    assert report.shares_by_source == {"s": 0.75, "set": 0.25}
    assert (
        report.cut_share_by_language
        == {"de": 0.0, "en": 0.0}
        == report.missing_glyph_share_by_language
    )
    checked = {expectation.name: expectation.checked for expectation in report.expectations}
    assert (
        checked["no text is empty"] == 70
        and checked["every photo can be read and decoded whole"] == 10
    )


def test_shares_of_cut_and_missing_by_language(tmp_path: Path) -> None:
    tsv = tmp_path / "s.tsv"
    rows = [("en", "de", f"short {n}", "lang " * 30 + str(n)) for n in range(4)] + [
        ("en", "ja", f"also short {n}", f"\U0001f600\ue000 {n}") for n in range(4)
    ]
    tsv.write_text("".join("\t".join(row) + "\n" for row in rows))
    report = judged(SourceConfig("tsv", str(tsv)), share=1.0).report
    assert report.cut_share_by_language == {"de": 1.0, "en": 0.0, "ja": 0.0}
    census = Renderer.from_config(RENDER).census([row[3] for row in rows[4:]])
    assert (
        report.missing_glyph_share_by_language["ja"] == census.missing.mean()
        and report.missing_glyph_share_by_language["en"] == 0.0
    )
    english = Renderer.from_config(RENDER).census([row[2] for row in rows]).drawn_rows.mean()
    assert report.mean_rows_by_language == {
        "de": RENDER.image_px / 16,
        "en": english,
        "ja": census.drawn_rows.mean(),
    }
    assert "mean by language" in validation_deck(report) and ">4.00<" in validation_deck(report)
    assert not report.excluded


def test_text_pairs_with_a_bad_first_or_a_copy_are_left_out(tmp_path: Path) -> None:
    tsv = tmp_path / "s.tsv"
    tsv.write_text(
        "en\tde\t\tsatz\nen\tde\tsame\tsame\nen\tde\tgood\tgut\nx"
        " y\tde\todd\tsprache\nthree\tcolumns\tonly\n"
    )
    found = judged(SourceConfig("tsv", str(tsv), name="s"), share=1.0)
    assert set(found.excluded) == {"s/s-1", "s/s-2#0", "s/s-4", "s/s-5"}


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.json"):
        judged(SourceConfig("karpathy", str(tmp_path / "nowhere.json"), images=str(tmp_path)))
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(DataError, match="no record"):
        judged(SourceConfig("tsv", str(tmp_path / "empty.tsv")), share=1.0)
    source = write_set(tmp_path, {f"photo-{n:03d}.jpg": ["a"] for n in range(3)})
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(DataError, match="cannot be read"):
        judged(source, max_bad_share=0.05)


def evaluations(folder: Path) -> EvaluateConfig:
    """The four evaluations with pictures, each of its own photos."""
    for name in ("imagenet/a", "retrieval", "vqa", "xm"):
        (folder / name).mkdir(parents=True)
    (folder / "imagenet/a/n01440764-x.jpg").write_bytes(jpeg(101))
    (folder / "retrieval/test-photo.jpg").write_bytes(jpeg(102))
    (folder / "retrieval/train-photo.jpg").write_bytes(jpeg(105))
    entries = [
        {"filename": f"{split}-photo.jpg", "split": split, "sentences": [{"raw": "x"}]}
        for split in ("train", "test")
    ]
    (folder / "retrieval.json").write_text(json.dumps({"images": entries}))
    (folder / "vqa/COCO_val2014_000000000042.jpg").write_bytes(jpeg(103))
    (folder / "vqa/COCO_val2014_000000000043.jpg").write_bytes(jpeg(106))
    (folder / "questions.json").write_text(
        json.dumps({"questions": [{"image_id": 42, "question_id": 1, "question": "?"}]})
    )
    (folder / "xm/abcdef0123.jpg").write_bytes(jpeg(104))
    (folder / "captions.jsonl").write_text(
        json.dumps({"image/key": "abcdef0123", "en": {"caption": ["x"]}}) + "\n"
    )
    questions = str(folder / "questions.json")
    return EvaluateConfig(
        imagenet=ImagenetConfig(str(folder / "imagenet"), "names.json"),
        retrieval=(RetrievalConfig(str(folder / "retrieval.json"), str(folder / "retrieval")),),
        vqa=VqaConfig(
            questions,
            "annotations.json",
            str(folder / "vqa"),
            questions,
            images=str(folder / "vqa"),
        ),
        xm3600=Xm3600Config(str(folder / "captions.jsonl"), str(folder / "xm")),
    )


def test_no_evaluated_photo_is_trained_on(tmp_path: Path) -> None:
    """The same bytes under another name, and the same name with other bytes, of each evaluation;
    unevaluated neighbours may stay.
    """
    evaluate = evaluations(tmp_path / "evaluated")
    names = [
        "same-bytes-1.jpg",
        "same-bytes-2.jpg",
        "same-bytes-3.jpg",
        "same-bytes-4.jpg",
        "n01440764-x.png",
        "test-photo.jpg",
    ]
    names += [
        "000000000042.jpg",
        "abcdef0123.jpg",
        "train-photo.jpg",
        "000000000043.jpg",
        "other.jpg",
    ]
    files = {f"same-bytes-{n}.jpg": jpeg(100 + n) for n in (1, 2, 3, 4)}
    found = judged(
        write_set(tmp_path, {name: [f"text of {name}"] for name in names}, files), evaluate=evaluate
    )
    assert set(found.excluded) == {f"set/{name.rpartition('.')[0]}" for name in names[:8]}
    [left_out] = found.report.excluded
    wanted = ["imagenet", "retrieval", "vqa"]
    assert left_out.examples == [
        f"set/same-bytes-{n}: {name}" for n, name in enumerate(wanted, start=1)
    ]
    with pytest.raises(DataError, match="no photo is also evaluated"):
        judged(
            write_set(tmp_path, {name: ["text"] for name in names}, files),
            evaluate=evaluate,
            max_bad_share=0.1,
        )


def test_an_evaluation_that_cannot_be_read_is_noted_not_fatal(tmp_path: Path) -> None:
    evaluate = evaluations(tmp_path / "evaluated")
    (tmp_path / "evaluated/retrieval.json").unlink()
    report = judged(
        write_set(tmp_path, {"photo-one.jpg": ["a"]}), evaluate=evaluate, max_bad_share=0.0
    ).report
    assert any(
        "not looked at: retrieval" in expectation.name for expectation in report.expectations
    )


def test_the_real_slices_leak_nothing(slices: Path) -> None:
    """The run on real photos: no training photo is evaluated, by content or by name; checked here
    without the code under test.
    """
    run = presets.slices(str(slices))
    evaluated, n_pictures, notes = taken(run.evaluate)
    assert not notes and n_pictures > 2000
    flickr8k, flickr30k = slices / "flickr8k", slices / "flickr30k_multi30k"
    paths = [
        flickr8k / "Flicker8k_Dataset" / name
        for name in _names(flickr8k / "dataset_flickr8k.json", "train")
    ]
    paths += [
        flickr30k / "flickr30k-images" / name
        for name in _names(flickr30k / "dataset_flickr30k.json", "train")
    ]
    assert len(paths) == 4000
    for path in paths:
        assert ("content", key_hash(path.read_bytes()), 0) not in evaluated
        assert ("name", stem_hash(path.stem), 0) not in evaluated
    test = [
        flickr30k / "flickr30k-images" / name
        for name in _names(flickr30k / "dataset_flickr30k.json", "test")
    ]
    assert {evaluated["content", key_hash(path.read_bytes()), 0] for path in test} == {"retrieval"}
    assert {evaluated["name", stem_hash(path.stem), 0] for path in test} == {"retrieval"}


def test_the_photos_run_trains_on_nothing_that_it_shows(slices: Path) -> None:
    """Every photo and caption pair is of a training photo; a caption of it that reads like an
    evaluated one is among those that validation leaves out.
    """
    run = presets.photos(str(slices))
    evaluated, n_pictures, notes = taken(run.evaluate)
    assert not notes and n_pictures == 712 + 163
    images = [
        image
        for source in run.data.sources[:2]
        for image in json.loads(Path(source.path).read_text())["images"]
    ]
    train = {Path(one["filename"]).stem for one in images if one["split"] == "train"}
    test = {Path(one["filename"]).stem for one in images if one["split"] == "test"}
    assert not train & test and len(train) == 4000
    said = {_said(text["raw"]) for one in images if one["split"] == "test"
            for text in one["sentences"]}  # fmt: skip
    left_out = set()
    for source in run.data.sources:
        for record in read_source(source):
            assert record.group in train and ("name", stem_hash(record.group), 0) not in evaluated
            for text in (getattr(record, "first", ""), *record.texts):
                if _said(text) in said and len(plain_text(text)) >= MIN_CAPTION_BYTES:
                    left_out.add(text)
                    assert ("caption", plain_hash(text), 0) in evaluated, text
    assert len(left_out) < 30, "of 20,000; shorter ones say nothing"


def _said(text: str) -> str:
    """Letters and digits of a text."""
    return "".join(character for character in text.lower() if character.isalnum())


def _names(path: Path, split: str) -> list[str]:
    """File names of a split of a Karpathy json."""
    return [
        entry["filename"]
        for entry in json.loads(path.read_text())["images"]
        if entry["split"] == split
    ]


@pytest.mark.slow
def test_the_real_slices_validate_and_load(slices: Path, tmp_path: Path) -> None:
    """4,000 photos and 30,000 sentence pairs through validation, shards and loader."""
    run = presets.slices(str(slices))
    found = validated(tmp_path, run.data, run.render, run.evaluate)
    assert found.report.n_records == 4000 + 27430 + 3392
    # One sentence of Multi30k is a caption of a test photo of Flickr30k.
    assert [key for key in found.excluded if "#" not in key] == ["multi30k/train.en-17657"]
    assert len(found.excluded) < 25
    manifest = written(tmp_path, run.data, run.render, found.judged)
    assert (manifest.n_photo_pairs, manifest.n_pairs) == (4000, 34821)
    encode = Renderer.from_config(run.render)
    keys = []
    for batch in loader.batches(
        manifest, run.data, image_px=112, batch_pairs=128, seed=0, text_encoder=encode, steps=45
    ):
        assert batch.photos.shape == (96, 3, 112, 112) and len(set(batch.keys)) == 128
        keys += batch.keys[:96]
    # 45 batches hold an epoch and a part of the next, which a window mixes at their seam.
    assert len(set(keys)) > 3900 and len(keys) == 4320
    assert max(collections.Counter(keys).values()) == 2
