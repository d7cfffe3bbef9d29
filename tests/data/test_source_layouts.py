"""The layouts in which people keep photos with captions: the same pairs from each, faults named."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepared import validated, written

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import prepare
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import tars
from clippo_core.data.sources.guess import guess_source
from clippo_core.data.sources.kinds import read_source
from clippo_core.data.survey import survey
from clippo_core.errors import ConfigError, DataError
from clippo_core.run.contents import content_digest, source_inputs
from clippo_core.run.records import StagePlan

CAPTIONS = [f'photo {n}, a "dog", un café\t{n}' if n == 7 else f"photo {n}" for n in range(20)]


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTOS = [jpeg(n) for n in range(20)]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceConfig]:
    """The same 20 photos, once in each layout."""
    import datasets

    root = tmp_path_factory.mktemp("layouts")
    (root / "photos").mkdir()
    (root / "folder/deep").mkdir(parents=True)
    (root / "web").mkdir()
    for n, (photo, caption) in enumerate(zip(PHOTOS, CAPTIONS, strict=True)):
        (root / f"photos/{n:02d}.jpg").write_bytes(photo)
        home = root / ("folder/deep" if n % 2 else "folder")
        (home / f"{n:02d}.JPG").write_bytes(photo)
        (home / f"{n:02d}.txt").write_text(caption + "\n")
    for kind, separator in (("csv", ","), ("tsv", "\t")):
        with open(root / f"pairs.{kind}", "w", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerow(["id", "filepath", "title"])
            writer.writerows([n, f"photos/{n:02d}.jpg", text] for n, text in enumerate(CAPTIONS))
    for number in range(4):
        with tarfile.open(root / f"web/{number:05d}.tar", "w") as tar:
            for n in range(5 * number, 5 * number + 5):
                for end, content in (("jpg", PHOTOS[n]), ("txt", CAPTIONS[n].encode())):
                    member = tarfile.TarInfo(f"{n:02d}.{end}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    images = [
        {"filename": f"{n:02d}.jpg", "split": "train", "sentences": [{"raw": text}]}
        for n, text in enumerate(CAPTIONS)
    ]
    (root / "set.json").write_text(json.dumps({"images": images}))
    pictures = [{"bytes": photo, "path": None} for photo in PHOTOS]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": pictures, "caption": CAPTIONS}, features=features)
    for number in range(2):
        part = table.select(range(10 * number, 10 * number + 10))
        part.to_parquet(root / f"parquet/train-{number}.parquet")
    home = str(root)
    return {
        "karpathy": SourceConfig("karpathy", f"{home}/set.json", images=f"{home}/photos"),
        "csv": SourceConfig("csv", f"{home}/pairs.csv", separator=","),
        "csv with tabs": SourceConfig("csv", f"{home}/pairs.tsv", images=home),
        "folder": SourceConfig("folder", f"{home}/folder"),
        "parquet": SourceConfig("hf", f"{home}/parquet", text_column="caption"),
        "parquet *": SourceConfig("hf", f"{home}/parquet/*.parquet", text_column="caption"),
        "tars": SourceConfig("webdataset", f"{home}/web"),
        "tars *": SourceConfig("webdataset", f"{home}/web/*.tar"),
        "tars of a range": SourceConfig("webdataset", f"{home}/web/{{00000..00003}}.tar"),
    }


def seen(source: SourceConfig) -> list[tuple[bytes, tuple[str, ...], tuple[str, ...]]]:
    """(photo, texts, languages) of each record, in the order of the texts."""
    records = list(read_source(source))
    assert len({record.key for record in records}) == len(records)
    found = [
        (record.content or tars.picture_bytes(record.image), record.texts, record.languages)
        for record in records
        if isinstance(record, PhotoRecord) and not record.problem
    ]
    assert len(found) == len(records)
    return sorted(found, key=lambda row: row[1])


def test_every_layout_gives_the_same_records(layouts: dict[str, SourceConfig]) -> None:
    expected = sorted(
        ((photo, (text,), ("en",)) for photo, text in zip(PHOTOS, CAPTIONS, strict=True)),
        key=lambda row: row[1],
    )
    for name, source in layouts.items():
        assert seen(source) == expected, name


@pytest.mark.parametrize("name", ["csv", "folder", "parquet", "tars of a range"])
def test_every_layout_validates_and_becomes_shards(
    layouts: dict[str, SourceConfig], name: str, tmp_path: Path
) -> None:
    data, render = DataConfig((layouts[name],), max_bad_share=0.0), RenderConfig(image_px=64)
    stage = StagePlan(str(tmp_path), 0, content_digest(source_inputs(data)))
    judged = prepare.validate(stage, data, render)
    manifest = prepare.write_shards(stage, data, render, judged)
    assert (judged.report.n_records, manifest.n_photo_pairs) == (20, 20)


def test_our_shards_are_read_by_the_rules_of_others(
    layouts: dict[str, SourceConfig], tmp_path: Path
) -> None:
    """open_clip takes each record's picture and `txt`."""
    data, render = DataConfig((layouts["csv"],)), RenderConfig(image_px=64)
    written(tmp_path, data, render, validated(tmp_path, data, render).judged)
    found: dict[str, dict[str, bytes]] = {}
    (path,) = (tmp_path / "prepared").glob("*.tar")
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            found.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    assert [one["txt"].decode() for one in found.values()] == CAPTIONS
    assert [one["jpg"] for one in found.values()] == PHOTOS
    assert seen(SourceConfig("webdataset", str(path))) == seen(layouts["csv"])


def table(path: Path, *lines: str, **options: str) -> list[Any]:
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return list(read_source(SourceConfig("csv", str(path), separator=",", **options)))


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    records = table(
        tmp_path / "a.csv",
        "filepath,title",
        "1.jpg,one",
        "only.jpg",
        "../2.jpg,two",
        "/etc/passwd,three",
        "\udcff.jpg,four",
        "",
        f"{tmp_path}/5.jpg,five",
        '6.jpg,"six\nlines"',
        ",seven",
    )
    assert [record.problem.partition(": ")[2][:30] for record in records] == [
        "", "it has 1 columns, and the head", "picture ../2.jpg: its name lea",
        "picture /etc/passwd: its name ", "line 6 cannot be used (" + f"{tmp_path}"[:7], "", "",
        "picture .: its name is empty o",
    ]  # fmt: skip
    assert [record.image for record in records if not record.problem] == [
        f"{tmp_path}/{n}.jpg" for n in (1, 5, 6)
    ]
    assert records[6].texts == ("six\nlines",)
    assert all("a.csv" in record.problem for record in records if record.problem)


def test_a_table_without_its_columns_or_with_an_open_quote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(
        DataError, match=r"a.csv: its header \(url\\tcaption\) lacks filepath or ti"
    ):
        table(path, "url\tcaption", "x\ty")
    with pytest.raises(DataError, match=r"a.csv: it is empty; set"):
        table(path)
    (record,) = table(path, "url,caption", "x.jpg,y", image_column="url", text_column="caption")
    assert record.image == f"{tmp_path}/x.jpg"
    rows = [f"{n}.jpg,text {n}" for n in range(3000)]
    with pytest.raises(DataError, match=r"a.csv: a quote opens in line 2, and .* close the quotes"):
        table(path, "filepath,title", '0.jpg,"never closed', *rows)
    with pytest.raises(DataError, match=r"a.csv: the row after line 1 cannot be read \(field larg"):
        table(path, "filepath,title", "0.jpg," + "x" * 200_000)
    with pytest.raises(ConfigError, match="one character"):
        SourceConfig("csv", "a.csv", separator=", ")


def test_pictures_without_texts_and_texts_without_pictures_are_named(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.txt", "2.jpg", "3.txt", "4.png", "4.txt", "notes.md"):
        (tmp_path / name).write_bytes(b"\xff" if name == "4.txt" else b"x")
    records = {record.key: record for record in read_source(SourceConfig("folder", str(tmp_path)))}
    assert list(records) == ["1", "2", "3", "4"] and not records["1"].problem
    for key, words in (("2", "no .txt beside it"), ("3", "no picture"), ("4", "not UTF-8")):
        assert words in records[key].problem and str(tmp_path) in records[key].problem
    with pytest.raises(DataError, match="nowhere"):
        list(read_source(SourceConfig("folder", str(tmp_path / "nowhere"))))


def test_tars_that_a_range_names_must_be_there(layouts: dict[str, SourceConfig]) -> None:
    home = layouts["tars"].path
    two = SourceConfig("webdataset", f"{home}/{{00001..00002}}.tar")
    assert [record.key for record in read_source(two)] == [
        f"{n // 5:05d}/{n:02d}" for n in range(5, 15)
    ]
    with pytest.raises(DataError, match=r"\{00000..00009\}.tar: 4 of the 10 files .* are there"):
        list(read_source(SourceConfig("webdataset", f"{home}/{{00000..00009}}.tar")))
    with pytest.raises(DataError, match="no such file"):
        list(read_source(SourceConfig("webdataset", f"{home}/{{0..3}}.tar")))
    with pytest.raises(DataError, match=r"a folder without .tar"):
        list(read_source(SourceConfig("webdataset", f"{home}/../folder")))


def test_a_bucket_is_asked_once_per_tar(
    s3: str, layouts: dict[str, SourceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in Path(layouts["tars"].path).iterdir():
        storage.upload(path, f"{s3}/web/{path.name}")
    counts: Counter[str] = Counter()
    events = storage._bucket()._client.meta.events
    events.register("before-call.s3", lambda model, **_: counts.update([model.name]))
    source = SourceConfig("webdataset", f"{s3}/web/{{00000..00003}}.tar")
    assert len(seen(source)) == 20
    assert counts["HeadObject"] == 4 and counts["ListObjectsV2"] <= 2, counts
    assert seen(source) == seen(layouts["tars"])


def test_parquet_that_cannot_be_used_is_refused_or_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    images = [{"bytes": PHOTOS[0], "path": "0.jpg"}, {"bytes": None, "path": "/etc/passwd"}, None]
    pq.write_table(pa.table({"image": images, "text": [["a", " b "], ["c"], None]}), path)
    records = list(read_source(SourceConfig("hf", str(path), languages=("de",))))
    assert [(record.texts, record.languages) for record in records[:1]] == [
        (("a", "b"), ("de", "de"))
    ]
    assert [bool(record.problem) for record in records] == [False, True, True]
    assert f"row 1 of {path}: its picture has no bytes" in records[1].problem
    with pytest.raises(DataError, match=r"a.parquet: .*caption"):
        list(read_source(SourceConfig("hf", str(path), text_column="caption")))
    with pytest.raises(DataError, match=r"a.parquet: picture and text are both column text; set"):
        list(read_source(SourceConfig("hf", str(path), image_column="text")))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a.parquet"):
        list(read_source(SourceConfig("hf", str(path))))


def parquet_of(text: Any, rows: dict[str, Any], path: Path) -> None:
    """A parquet file whose texts are declared as `text`."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": text})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def test_texts_declared_as_pictures_open_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library `datasets` opens the path or address in whatever a table declares a picture."""
    import datasets

    (tmp_path / "secret.png").write_bytes(PHOTOS[0])
    path = tmp_path / "a.parquet"
    named = {"bytes": None, "path": str(tmp_path / "secret.png")}
    pictures = [{"bytes": PHOTOS[0], "path": "0.jpg"}]
    for text, kept in (
        (datasets.Image(), named),
        (datasets.List(datasets.Image()), [named]),
        ({"a": datasets.Image()}, {"a": named}),
    ):
        parquet_of(text, {"image": pictures, "text": [kept]}, path)
        opened: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", lambda *names, to=opened: to.append(str(names)))
            with pytest.raises(DataError, match="its column text holds"):
                list(read_source(SourceConfig("hf", str(path))))
        assert not opened


@pytest.mark.parametrize(
    "layout", ["karpathy", "csv", "csv with tabs", "folder", "parquet", "tars", "tars of a range"]
)
def test_a_path_alone_says_what_lies_there(layout: str, layouts: dict[str, SourceConfig]) -> None:
    written = layouts[layout]
    guessed = guess_source(written.path)
    assert seen(guessed) == seen(written)
    found = survey(guessed)
    assert (found.records, found.is_least, found.most_in_a_batch) == (20, False, 20)
    assert (found.opened, found.problems, found.unusable) == (10, [], 0)


def test_a_path_of_texts_says_what_lies_there(tmp_path: Path) -> None:
    texts = {
        "lines.txt": "One.\nTwo.\nThree.\n",
        "train.en": "a\nb\n",
        "train.de": "c\nd\n",
        "pairs.tsv": "a dog\tein Hund\na cat\teine Katze\n",
        "c4.json": '{"text": "One. Two."}\n{"text": "Three. Four."}\n',
        "odd.csv": "id,words\n1,a\n",
        "odd.json": '{"images": []}',
        "odd.jsonl": '{"url": "x"}\n',
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/1.jpg").write_bytes(PHOTOS[0])

    def kind(given: str) -> SourceConfig:
        return guess_source("=".join(str(tmp_path / part) for part in given.split("=")))

    assert kind("lines.txt").kind == "sentences" and kind("pairs.tsv").kind == "tsv"
    assert kind("c4.json").kind == "c4"
    pair = kind("train.en=train.de")
    assert (pair.kind, pair.second_path) == ("moses", str(tmp_path / "train.de"))
    assert pair.languages == ("en", "de")
    for given, sentence in (
        ("nothing", "there is no such file or folder"),
        ("empty", "there is no such file or folder"),
        ("pictures", "no picture in it has a .txt beside it"),
        ("odd.csv", r"its header \(id, words\) names no picture or no caption"),
        ("odd.json", "neither Karpathy's nor COCO's"),
        ("odd.jsonl", "neither `text` nor `image/key`"),
    ):
        with pytest.raises(DataError, match=sentence):
            kind(given)


def test_pictures_are_looked_for_beside_their_annotations(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "caption": "a dog"}],
    }
    path = tmp_path / "annotations/captions.json"
    path.write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"captions\.json=FOLDER"):
        guess_source(str(path))
    (tmp_path / "val2017/1.jpg").write_bytes(PHOTOS[0])
    assert guess_source(str(path)).images == str(tmp_path / "val2017")
    assert guess_source(f"{path}={tmp_path}").images == str(tmp_path)


def test_how_common_a_text_is_bounds_the_batch(tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"{n:02d}.jpg").write_bytes(PHOTOS[n])
        (tmp_path / f"{n:02d}.txt").write_text("a dog" if n < 5 else f"photo {n}")
    (tmp_path / "19.jpg").write_bytes(b"no picture")
    found = survey(SourceConfig("folder", str(tmp_path)))
    assert found.most_in_a_batch == 4 and found.top == "the text 'a dog'"
    (tmp_path / "00.jpg").write_bytes(b"no picture")
    found = survey(SourceConfig("folder", str(tmp_path)))
    assert len(found.problems) == 1 and "00.jpg" in found.problems[0]
