"""What only the whole can know: DuckDB's answers beside a plain definition, thinning beside the
order that must be able to deal what is left, and evaluated pictures found in another size.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    RenderConfig,
    RetrievalConfig,
    SourceConfig,
)
from clippo_core.data import loader, prepare
from clippo_core.data.order import Marks, Order, Pool
from clippo_core.data.pairs import key_hash
from clippo_core.data.perceptual import MAX_DISTANCE, perceptual_hash
from clippo_core.data.shard_index import PHOTO, TEXT
from clippo_core.data.validate import evaluated, facts, questions, thinning
from clippo_core.data.validate.database import open_database
from clippo_core.data.validate.plain import plain_hash, plain_text, stem_hash
from clippo_core.data.validate.rules import RULES
from clippo_core.errors import DataError
from clippo_core.run.records import StagePlan

RENDER = RenderConfig(image_px=64)
JPEG = (".jpg", ".jpeg")
Rows = list[dict[str, Any]]


# What DuckDB answers is what it would be by definition.


def random_tables(seed: int) -> tuple[list[Rows], list[Rows], list[Rows], Rows]:
    """(records, texts, verdict rows, evaluated): three partitions, with few different hashes."""
    rng = np.random.default_rng(seed)
    looks = rng.integers(1, 2**63, (12, 2), dtype=np.uint64)
    records: list[Rows] = []
    texts: list[Rows] = []
    verdicts: list[Rows] = []
    rules = ["photo_problem", "small_photo", "not_a_text", "blank", "text_twice"]
    for part in range(3):
        records.append([])
        texts.append([])
        verdicts.append([])
        for ordinal in range(int(rng.integers(0, 40))):
            is_photo = part != 1
            low, high = (int(half) for half in looks[rng.integers(12)])
            for bit in rng.integers(0, 64, int(rng.integers(0, 12))):
                low ^= 1 << int(bit)
            key = f"s/{rng.integers(70)}-{part if rng.random() < 0.7 else 0}-{ordinal}"
            n_texts = int(rng.integers(1, 4))
            records[part].append(
                {
                    "ordinal": ordinal,
                    "id": key,
                    "key_hash": int(rng.integers(1, 90)) if rng.random() < 0.3 else key_hash(key),
                    "group_hash": int(rng.integers(0, 6)),
                    "first_hash": int(rng.integers(0, 30)),
                    "kind": PHOTO if is_photo else TEXT,
                    "is_photo": is_photo,
                    "n_texts": n_texts,
                    "look_low": low if is_photo else 0,
                    "look_high": high if is_photo else 0,
                    "stem_hash": int(rng.integers(0, 60)) if is_photo else 0,
                }
            )
            for number in range(0 if is_photo else -1, n_texts):
                texts[part].append(
                    {
                        "ordinal": ordinal,
                        "number": number,
                        "text_hash": int(rng.integers(0, 80)),
                        "plain_hash": int(rng.integers(0, 80)),
                        "shown": f"'text {ordinal}.{number}'",
                    }
                )
                if rng.random() < 0.1:
                    row = {"table": "texts", "ordinal": ordinal, "number": number, "shown": "x"}
                    verdicts[part].append(row | {"rule": str(rng.choice(rules)), "id": key})
            if rng.random() < 0.1:
                row = {"table": "records", "ordinal": ordinal, "number": -1, "shown": "x"}
                verdicts[part].append(row | {"rule": str(rng.choice(rules)), "id": key})
    shown = [("content", 3, 0), ("name", 7, 0), ("caption", 9, 0), ("caption", 20, 0)]
    shown += [("look", int(low), int(high)) for low, high in looks[:4]]
    return (
        records,
        texts,
        verdicts,
        [
            {"kind": kind, "first": first, "second": second, "evaluation": "retrieval"}
            for kind, first, second in shown
        ],
    )


def written(folder: Path, name: str, columns: dict[str, str], rows: list[Rows]) -> list[Path]:
    paths = []
    for number, part in enumerate(rows):
        paths.append(folder / f"{name}-{number}.parquet")
        with facts.table_writer(paths[-1], columns) as writer:
            writer.add(part)
    return paths


@pytest.mark.parametrize("seed", range(8))
def test_the_database_answers_as_defined(tmp_path: Path, seed: int) -> None:
    records, texts, verdicts, shown = random_tables(seed)
    tables = {
        "records": written(tmp_path, "records", facts.RECORDS, records),
        "texts": written(tmp_path, "texts", facts.TEXTS, texts),
        "verdicts": written(tmp_path, "verdicts", facts.VERDICT, verdicts),
        "evaluated": written(tmp_path, "evaluated", evaluated.COLUMNS, [shown]),
    }
    with open_database(tables) as db:
        questions.prepare(db)
        twice = questions.count_twice(db)
        found = {
            "key_repeated": questions.note_repeated_keys(db),
            "evaluated": questions.note_evaluated(db),
            "evaluated_caption": questions.note_captions(db),
        }
        sizes = questions.sizes(db)
        out = {
            (*questions.split(record), number): RULES[place].name
            for record, number, place in db.execute("SELECT * FROM out").fetchall()
        }
    expected, broken = by_definition(records, texts, verdicts, shown)
    assert found == {rule: len(broken[rule]) for rule in found}
    assert twice == {
        "photo_twice": in_common(
            row["first_hash"] for part in records for row in part if row["is_photo"]
        ),
        "text_repeated": in_common(row["text_hash"] for part in texts for row in part),
    }
    assert out == expected
    usable: Counter[tuple[int, int]] = Counter()
    for part, rows in enumerate(records):
        for row in rows:
            left = [n for n in range(row["n_texts"]) if (part, row["ordinal"], n) not in expected]
            if left and (part, row["ordinal"], -1) not in expected:
                usable[part, int(not row["is_photo"])] += 1
    assert {key: n for key, n in sizes.items() if n} == dict(usable)


def in_common(hashes: Any) -> int:
    """How many of some hashes are not alone; 0 is none."""
    counts = Counter(one for one in hashes if one)
    return sum(n for n in counts.values() if n > 1)


def by_definition(
    records: list[Rows], texts: list[Rows], verdicts: list[Rows], shown: Rows
) -> tuple[dict[tuple[int, int, int], str], dict[str, set[tuple[int, int, int]]]]:
    """((partition, ordinal, number) -> the first rule that it breaks; all that break a rule)."""
    broken: dict[str, set[tuple[int, int, int]]] = {rule.name: set() for rule in RULES}
    of = {
        kind: {row["first"] for row in shown if row["kind"] == kind}
        for kind in ("content", "name", "caption")
    }
    looks = [row["first"] | row["second"] << 64 for row in shown if row["kind"] == "look"]
    keys: set[int] = set()
    for part, rows in enumerate(records):
        for row in rows:
            where = (part, row["ordinal"], -1)
            if row["key_hash"] in keys:
                broken["key_repeated"].add(where)
            keys.add(row["key_hash"])
            look = row["look_low"] | row["look_high"] << 64
            alike = look and any((look ^ one).bit_count() <= MAX_DISTANCE for one in looks)
            same = row["first_hash"] in of["content"] or row["stem_hash"] in of["name"]
            if row["is_photo"] and (alike or same):
                broken["evaluated"].add(where)
        for row in texts[part]:
            if row["plain_hash"] in of["caption"]:
                broken["evaluated_caption"].add((part, row["ordinal"], row["number"]))
        for row in verdicts[part]:
            broken[row["rule"]].add((part, row["ordinal"], row["number"]))
    out: dict[tuple[int, int, int], str] = {}
    for rule in RULES:
        for where in broken[rule.name]:
            out.setdefault(where, rule.name)
    return out, broken


def test_the_database_reads_its_tables_and_nothing_else(tmp_path: Path) -> None:
    import duckdb

    [path] = written(tmp_path, "records", facts.RECORDS, [[{"ordinal": 0, "id": "one"}]])
    (tmp_path / "other.csv").write_text("a\n1\n")
    with open_database({"it": [path]}) as db:
        assert db.execute("SELECT part, id FROM it").fetchall() == [(0, "one")]
        for refused in (
            f"SELECT * FROM '{tmp_path}/other.csv'",
            f"COPY it TO '{tmp_path}/copy.csv'",
            "INSTALL httpfs",
            "SELECT * FROM 'https://example.org/x.parquet'",
            "SET enable_external_access = true",
            "SET memory_limit = '1TB'",
        ):
            with pytest.raises(duckdb.Error):
                db.execute(refused)


# What is thinned can be dealt.


def frequent(
    n: int,
    batch: int,
    marks: list[int],
    *,
    captions: int = 1,
    seed: int = 0,
    together: bool = False,
) -> tuple[thinning.Frequent, thinning.Batches]:
    """n photos, of which marks[m] have the caption m among theirs; neighbours, if `together`."""
    rng = np.random.default_rng(seed)
    order = np.arange(n) if together else rng.permutation(n)
    rows = order[: sum(marks)]
    return thinning.Frequent(
        np.zeros(n, np.int64),
        np.array([key_hash(f"s/{record}") for record in range(n)], np.uint64),
        np.full(n, captions),
        np.arange(n),
        np.repeat(np.arange(len(marks)), marks),
        rows,
        np.ones(len(rows), bool),
    ), thinning.Batches((n, 0), (batch, 0), 2**14, 128)


def order_of(found: thinning.Frequent, batches: thinning.Batches, out: np.ndarray) -> Order:
    """The order over what is left of `frequent`'s records."""
    n, captions = batches.sizes[0], int(found.n_texts[0])
    texts = np.arange(1, n * captions + 1, dtype=np.uint64).reshape(n, captions) << np.uint64(20)
    texts[found.rows, found.rows % captions] = found.marks.astype(np.uint64) + np.uint64(1)
    lost = np.zeros((n, captions), bool)
    lost[found.rows[out], found.rows[out] % captions] = True
    left = np.flatnonzero(~lost.all(1))
    counts = (~lost).sum(1)

    def marks(places: np.ndarray) -> Marks:
        records = left[places]
        alone = np.zeros(len(records), np.uint64)
        said = np.concatenate([texts[record][~lost[record]] for record in records])
        return Marks(found.key_hashes[records], alone, alone, counts[records], said)

    return Order(
        Pool(len(left), marks, str),
        Pool(0, marks, str),
        batches.places[0],
        0,
        seed=1,
        window_records=batches.window_records,
        block_records=batches.block_records,
    )


@pytest.mark.parametrize(
    ("n", "batch", "marks", "captions", "together"),
    [
        (2_000, 256, [40], 1, False),
        (2_000, 256, [300, 200, 9], 1, False),
        (2_000, 256, [900, 700], 5, False),
        (40_000, 256, [3_000] + [200] * 20, 1, False),
        (40_000, 256, [3_000] + [400] * 10, 1, True),
    ],
)
def test_an_order_exists_for_what_is_left(
    n: int, batch: int, marks: list[int], captions: int, together: bool
) -> None:
    found, batches = frequent(n, batch, marks, captions=captions, together=together)
    out, drawn = thinning.thinned(found, batches)
    assert out.any() and drawn == pytest.approx(np.array(marks) * batch / n / captions)
    order = order_of(found, batches, out)
    n_left = order.pools[0].size
    kept = np.bincount(found.marks[~out], minlength=len(marks))
    assert (kept >= 1).all() and n - n_left <= out.sum()
    if captions == 1:
        assert (kept * batch / n_left <= thinning.LIMIT).all()
        # Not wastefully: a bound is a fifth apart from the next, and chance adds its part.
        often = kept[np.array(marks) * batch / n > thinning.LIMIT]
        most = thinning.LIMIT * n_left / batch
        assert together or (often >= 0.6 * most - 3 * most**0.5).all()
    for window in range(8):
        order.window(window)


def test_what_fills_its_place_stays_where_windows_are_whole_epochs() -> None:
    found, batches = frequent(920, 92, [10] * 92)
    assert not thinning.thinned(found, batches)[0].any()
    order_of(found, batches, np.zeros(920, bool)).window(0)
    with pytest.raises(thinning.TooFrequentError):  # 92 captions cannot fill 92 places at random
        thinning.thinned(*frequent(919, 92, [10] * 91))


def test_a_little_more_data_leaves_other_records_as_they_were() -> None:
    found, batches = frequent(60_000, 1_024, [3_000])
    out = thinning.thinned(found, batches)[0]
    more = thinning.Frequent(
        np.zeros(61_800, np.int64),
        np.array([key_hash(f"s/{record}") for record in range(61_800)], np.uint64),
        np.ones(61_800, np.int64),
        np.arange(61_800),
        np.zeros(3_090, np.int64),
        np.r_[found.rows, np.arange(60_000, 60_090)],
        np.ones(3_090, bool),
    )
    larger = thinning.Batches((61_800, 0), (1_024, 0), 2**14, 128)
    assert np.array_equal(thinning.thinned(more, larger)[0][:3_000], out)


def test_the_order_of_the_rows_thins_the_same() -> None:
    found, batches = frequent(60_000, 64, [500, 20], together=True)
    out, drawn = thinning.thinned(found, batches)
    assert 0 < out.sum() < len(out)
    order = np.random.default_rng(1).permutation(len(out))
    shuffled = dataclasses.replace(
        found,
        marks=found.marks[order],
        rows=found.rows[order],
        is_text=found.is_text[order],
    )
    again, drawn_again = thinning.thinned(shuffled, batches)
    assert np.array_equal(again, out[order]) and np.array_equal(drawn_again, drawn)


def test_a_frequent_caption_trains_and_is_named(tmp_path: Path) -> None:
    """2,000 text pairs, one caption in 2 % of them, batches of 256."""
    rows = [
        f"en\tde\tsentence {n}\t{'eine Bildunterschrift' if n % 50 == 7 else f'Satz {n}'}\n"
        for n in range(2_000)
    ]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    source = SourceConfig("tsv", str(tmp_path / "pairs.tsv"), name="pairs")
    data = DataConfig((source,), text_pair_share=1.0)
    stage = StagePlan(str(tmp_path / "run"), 0, "digest")
    judged = prepare.validate(stage, data, RENDER, batch_pairs=256)
    [one] = [
        line
        for line in judged.report.expectations
        if line.name == "no text is too frequent for a batch"
    ]
    assert 36 <= one.failed < 40 and one.passed
    [worst] = one.worst
    assert "eine Bildunterschrift" in worst and "40 of them, drawn 5.12 times a batch" in worst
    [left_out] = judged.report.excluded
    assert left_out.count == one.failed and "eine Bildunterschrift" in left_out.examples[0]
    manifest = prepare.write_shards(stage, data, RENDER, judged)
    assert manifest.n_pairs == 2_000 - one.failed
    plan = loader.BatchPlan(manifest, data, 256, 0)
    steps = plan.order.window_steps
    drawn = [plan.order.draw(step).records for step in range(2 * steps)]
    assert all(len(set(records.tolist())) == 256 for records in drawn[::37])
    untouched = prepare.validate(stage, data, RENDER)
    assert not untouched.report.excluded


def test_groups_that_cannot_be_thinned_are_refused_in_words(tmp_path: Path) -> None:
    rows = [f"en\tde\tword {n}\tWort {n}\tgroup-{n % 30}\n" for n in range(899)]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    data = DataConfig((SourceConfig("tsv", str(tmp_path / "pairs.tsv")),), text_pair_share=1.0)
    stage = StagePlan(str(tmp_path / "run"), 0, "digest")
    with pytest.raises(DataError, match="batches of 30 pairs are too large .* lower train.batch"):
        prepare.validate(stage, data, RENDER, batch_pairs=30)
    assert not prepare.validate(stage, data, RENDER, batch_pairs=8).report.excluded


# Evaluated pictures and captions.


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with large and small structure, as photos have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(one: Image.Image, two: Image.Image) -> int:
    ours = [perceptual_hash(np.asarray(picture)) for picture in (one, two)]
    return sum((a ^ b).bit_count() for a, b in zip(*ours, strict=True))


def test_a_look_survives_size_and_quality_and_tells_pictures_apart() -> None:
    pictures = [scene(seed) for seed in range(40)]
    for picture in pictures:
        small = picture.resize((77, 61), Image.Resampling.BILINEAR)
        again = Image.open(io.BytesIO(encoded(small, "JPEG", quality=60))).convert("RGB")
        assert distance(picture, again) <= MAX_DISTANCE
    apart = [distance(one, two) for n, one in enumerate(pictures) for two in pictures[:n]]
    assert min(apart) > 2 * MAX_DISTANCE


def test_a_plain_picture_has_no_look() -> None:
    sign = np.full((200, 300, 3), 255, np.uint8)
    sign[80:120, 100:200] = np.random.default_rng(0).integers(0, 256, (40, 100, 3))
    assert perceptual_hash(sign) == (0, 0) == perceptual_hash(np.zeros((50, 50, 3), np.uint8))
    assert perceptual_hash(np.asarray(scene(1))) != (0, 0)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("A  brown dog runs, over the wet grass .", "a brown dog runs over the wet grass"),
        ("Ｗｉｄｅ letters, in a sentence of words", "wide letters in a sentence of words"),
        ("Zwei Hunde – auf der großen Wiese", "zwei hunde auf der grossen wiese"),
        ("一个男人在海浪上冲浪，身穿黑衣。", "一个男人在海浪上冲浪 身穿黑衣"),
    ],
)
def test_captions_are_compared_plainly(one: str, two: str) -> None:
    assert plain_text(one) == plain_text(two) and plain_hash(one) == plain_hash(two) != 0


def test_short_names_say_nothing() -> None:
    assert plain_hash("the number seventy-seven") == 0 == plain_hash("")
    assert stem_hash("0001") == 0 != stem_hash("COCO_val2014_000000000042")
    assert stem_hash("COCO_val2014_000000000042") == stem_hash("000000000042")


def test_no_evaluated_picture_or_caption_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "photos").mkdir()
    caption = "two brown dogs run over a wet meadow"
    (tmp_path / "shown" / "test-photo.png").write_bytes(encoded(scene(1), "PNG"))
    test = [{"filename": "test-photo.png", "split": "test", "sentences": [{"raw": caption}]}]
    (tmp_path / "test.json").write_text(json.dumps({"images": test}))
    texts = {
        "copy.jpg": ["text one"],
        "other.jpg": ["text two", "Two brown dogs run over a wet meadow."],
        "alone.jpg": ["  two brown dogs run over a WET meadow"],
        "sound.jpg": ["two brown dogs run over a dry meadow"],
    }
    for seed, name in enumerate(texts, 1):
        content = encoded(scene(seed).resize((320, 200)), "JPEG", quality=70)
        (tmp_path / "photos" / name).write_bytes(content)
    images = [
        {"filename": name, "split": "train", "sentences": [{"raw": text} for text in said]}
        for name, said in texts.items()
    ]
    (tmp_path / "train.json").write_text(json.dumps({"images": images}))
    source = SourceConfig(
        "karpathy", str(tmp_path / "train.json"), str(tmp_path / "photos"), name="set"
    )
    data = DataConfig((source,), max_bad_share=0.25)
    evaluate = EvaluateConfig(
        retrieval=(RetrievalConfig(str(tmp_path / "test.json"), str(tmp_path / "shown")),)
    )
    stage = StagePlan(str(tmp_path / "run"), 0, "digest")
    judged = prepare.validate(stage, data, RENDER, evaluate)
    assert {one.reason: one.examples for one in judged.report.excluded} == {
        "no photo is also evaluated": ["set/copy: retrieval (as it looks)"],
        "no text is an evaluated caption": [
            "set/other#1: 'Two brown dogs run over a wet meadow.'",
            "set/alone#0: '  two brown dogs run over a WET meadow'",
        ],
    }
    assert prepare.write_shards(stage, data, RENDER, judged).n_pairs == 2


@pytest.mark.slow
def test_real_evaluated_photos_are_found_in_another_size(slices: Path, tmp_path: Path) -> None:
    """100 of all real photos at hand, encoded anew, are found; of the others at most one is."""
    found: dict[int, tuple[Path, tuple[int, int]]] = {}
    for path in sorted(path for path in slices.rglob("*") if path.suffix.lower() in JPEG):
        content = key_hash(path.read_bytes())
        if content not in found:
            with Image.open(path) as picture:
                found[content] = path, perceptual_hash(np.asarray(picture.convert("RGB")))
    assert len(found) > 4_600
    rng = np.random.default_rng(0)
    shown = [found[list(found)[n]] for n in rng.permutation(len(found))[:100]]
    copies = []
    for path, _ in shown:
        with Image.open(path) as picture:
            scale = rng.uniform(0.35, 1.6)
            size = (round(picture.width * scale), round(picture.height * scale))
            method = [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS][rng.integers(2)]
            small = picture.convert("RGB").resize(size, method)
        kind = ["JPEG", "WEBP"][rng.integers(2)]
        again = encoded(small, kind, quality=int(rng.integers(30, 95)))
        with Image.open(io.BytesIO(again)) as picture:
            copies.append(perceptual_hash(np.asarray(picture.convert("RGB"))))
    others = [look for path, look in found.values() if (path, look) not in shown]
    rows = [
        {"ordinal": n, "id": f"s/{n}", "is_photo": True, "look_low": low, "look_high": high}
        for n, (low, high) in enumerate([*copies, *others])
    ]
    evaluations = [
        {"kind": "look", "first": low, "second": high, "evaluation": "imagenet"}
        for _, (low, high) in shown
    ]
    tables = {
        "records": written(tmp_path, "records", facts.RECORDS, [rows]),
        "texts": written(tmp_path, "texts", facts.TEXTS, [[]]),
        "verdicts": written(tmp_path, "verdicts", facts.VERDICT, [[]]),
        "evaluated": written(tmp_path, "evaluated", evaluated.COLUMNS, [evaluations]),
    }
    with open_database(tables) as db:
        questions.prepare(db)
        questions.note_evaluated(db)
        hits = [record for (record,) in db.execute("SELECT record FROM broken").fetchall()]
    n_found = sum(record < 100 for record in hits)
    print(f"{n_found} of 100 found, {len(hits) - n_found} false of {len(others):,}")
    assert n_found >= 95 and len(hits) - n_found <= 1
