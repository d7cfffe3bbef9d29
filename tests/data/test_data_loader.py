"""Shards, the order of batches and the loader: the same pairs for any ranks and workers, none lost
or repeated, none twice in a batch.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prepared import shards_of

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import index_file, loader, shard_index, shards
from clippo_core.data.batch_plan import BatchPlan
from clippo_core.data.images import decode_image, squash
from clippo_core.errors import ConfigError, ShardError
from clippo_core.rendering import Renderer, draw
from clippo_core.run.records import Manifest, Shard

RENDER = RenderConfig(image_px=64)


# ---------------------------------------------------------------- a small set of photos and
# sentence pairs


def write_photos(
    folder: Path, n: int, groups: int = 0, captions: int = 3, side: int = 40
) -> SourceConfig:
    """`n` photos with `captions` captions each; record i is in group i mod `groups`."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    images = []
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + 10, 3), dtype=np.uint8)
        name = f"photo-{i:04d}.{'jpg' if i % 2 else 'png'}"
        Image.fromarray(pixels).save(folder / "photos" / name)
        entry = {
            "filename": name,
            "split": "train",
            "sentences": [{"raw": f"caption {c} of {i}"} for c in range(captions)],
        }
        images.append({**entry, "group": f"g{i % groups}"} if groups else entry)
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return SourceConfig(
        "karpathy", str(folder / "dataset.json"), images=str(folder / "photos"), name="photos"
    )


def write_sentences(folder: Path, n: int, groups: int = 0) -> SourceConfig:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        ["en", "de", f"first {i}", f"zweiter {i}"] + ([f"g{i % groups}"] if groups else [])
        for i in range(n)
    ]
    (folder / "sentences.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return SourceConfig("tsv", str(folder / "sentences.tsv"), name="sentences")


def made(root: Path | str, data: DataConfig, excluded: Iterable[str] = ()) -> Manifest:
    return shards_of(root, data, RENDER, tuple(excluded))


def shard_file(manifest: Manifest, name: str) -> Path:
    """A file of a shard, by the name of its source, its number and its ending."""
    source, _, rest = name.partition("-")
    (path,) = Path(manifest.store).glob(f"{source}-*-{rest}")
    return path


def listed(manifest: Manifest) -> list[Shard]:
    return shards.shard_list(manifest)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, DataConfig]:
    """61 photos and 47 sentence pairs, a quarter of every batch sentence pairs."""
    folder = tmp_path_factory.mktemp("mixed")
    data = DataConfig(
        (write_photos(folder, 61), write_sentences(folder, 47)),
        text_pair_share=0.25,
        records_per_shard=20,
    )
    return made(folder / "run", data), data


ENCODE = Renderer.from_config(RENDER)


def read(mixed: tuple[Manifest, DataConfig], steps: int, **options: int) -> list[loader.Batch]:
    manifest, data = mixed
    settings_: dict[str, int] = {"image_px": 64, "batch_pairs": 16, "seed": 5, **options}
    return list(loader.batches(manifest, data, text_encoder=ENCODE, steps=steps, **settings_))


# ---------------------------------------------------------------- loader: ranks, workers, resume


def ids(batches: list[loader.Batch]) -> list[list[str]]:
    return [sorted(batch.keys) for batch in batches]


def test_shapes_and_the_share_of_text_pairs(mixed: tuple[Manifest, DataConfig]) -> None:
    for batch in read(mixed, 10):
        assert batch.photos.shape == (12, 3, 64, 64) and batch.photos.dtype == torch.uint8
        assert batch.first_text.shape == (4, 4, 64) and batch.second_text.shape == (16, 4, 64)
        assert [key.split("/")[0] for key in batch.keys] == ["photos"] * 12 + ["sentences"] * 4


def test_the_same_pairs_for_any_number_of_ranks(mixed: tuple[Manifest, DataConfig]) -> None:
    whole = read(mixed, 40)
    for world_size in (2, 4, 8):
        parts = [read(mixed, 40, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert all(len(batch.keys) == 16 // world_size for part in parts for batch in part)
        joined = [sorted(sum((part[step].keys for part in parts), [])) for step in range(40)]
        assert joined == ids(whole)
        for step in (0, 17, 39):  # and the same pixels
            one = {key: batch for batch in [whole[step]] for key in batch.keys}
            for part in parts:
                for place, key in enumerate(part[step].keys):
                    there = one[key].keys.index(key)
                    assert torch.equal(part[step].second_text[place], one[key].second_text[there])
                    if place < len(part[step].photos):
                        assert torch.equal(part[step].photos[place], one[key].photos[there])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(mixed: tuple[Manifest, DataConfig], workers: int) -> None:
    for here, there in zip(
        read(mixed, 13, start_step=2), read(mixed, 13, start_step=2, workers=workers), strict=True
    ):
        assert here.keys == there.keys and here.step == there.step
        for name in ("photos", "first_text", "second_text"):
            assert torch.equal(getattr(here, name), getattr(there, name))


@pytest.mark.parametrize("workers", [0, 1])
def test_heights_come_with_the_texts(tmp_path: Path, workers: int) -> None:
    """Those that the masks have, drawn now or stored."""
    sources_ = (write_photos(tmp_path, 20), write_sentences(tmp_path, 10))
    data = DataConfig(sources_, text_pair_share=0.25, store_drawings=True)
    mixed = made(tmp_path / "run", data), data
    heights = set()
    for batch in read(mixed, 6, workers=workers, count_rows=True):
        assert batch.text_rows is not None
        for rows, masks in zip(batch.text_rows, (batch.first_text, batch.second_text), strict=True):
            assert rows.tolist() == draw.used_rows(masks).tolist() and rows.device.type == "cpu"
            heights |= set(rows.tolist())
    assert heights >= {1, 2}


def test_going_on_at_any_step(mixed: tuple[Manifest, DataConfig]) -> None:
    whole = read(mixed, 45)
    assert [batch.step for batch in whole] == list(range(45))
    for start in (0, 1, 5, 15, 16, 17, 31, 44, 45):
        assert [batch.keys for batch in read(mixed, 45, start_step=start)] == [
            batch.keys for batch in whole[start:]
        ]


def test_twenty_kills_lose_and_repeat_nothing(mixed: tuple[Manifest, DataConfig]) -> None:
    """The ledger of a run that is stopped and started 20 times equals the uninterrupted one, at
    epochs' ends too.
    """
    rng = np.random.default_rng(0)
    stops = sorted(
        {
            *rng.integers(1, 120, 15).tolist(),
            *(math.ceil(61 * e / 12) + d for e in (1, 2) for d in (-1, 0, 1)),
            120,
        }
    )
    ledger: list[str] = []
    at = 0
    for stop in stops:
        for batch in read(mixed, stop, start_step=at):
            ledger += batch.keys
        at = stop
    assert ledger == [key for batch in read(mixed, 120) for key in batch.keys]
    counts = Counter(key for key in ledger if key.startswith("photos"))
    assert len(counts) == 61 and sum(counts.values()) == 120 * 12
    assert set(counts.values()) <= set(range(21, 27))  # within a run of 16 batches they are dealt


def test_pixels_and_texts_are_those_of_the_files(mixed: tuple[Manifest, DataConfig]) -> None:
    manifest, data = mixed
    renderer = Renderer.from_config(RENDER)
    folder = Path(data.sources[0].images)
    plan = BatchPlan(manifest, data, 16, 5)
    for batch in read(mixed, 6):
        draw = plan.order.draw(batch.step)
        for place, key in enumerate(batch.keys):
            number = int(key.rpartition("-")[2]) - (1 if key.startswith("sentences") else 0)
            if place < 12:
                (file,) = folder.glob(f"photo-{number:04d}.*")
                expected = torch.from_numpy(squash(decode_image(file), 64)).permute(2, 0, 1)
                assert torch.equal(batch.photos[place], expected)
                text = f"caption {draw.texts[place]} of {number}"
            else:
                text = f"zweiter {number}"
                assert (
                    batch.first_text[place - 12].numpy() == renderer.masks([f"first {number}"])[0]
                ).all()
            assert (batch.second_text[place].numpy() == renderer.masks([text])[0]).all()


def test_captions_take_turns(mixed: tuple[Manifest, DataConfig]) -> None:
    manifest, data = mixed
    plan = BatchPlan(manifest, data, 16, 5)
    said: dict[int, list[tuple[int, int]]] = {}
    for step in range(16 * 12):
        draw = plan.order.draw(step)
        for place in range(12):
            said.setdefault(int(draw.records[place]), []).append(
                (int(draw.epochs[place]), int(draw.texts[place]))
            )
    for turns in said.values():
        by_epoch = dict(turns)
        assert len(by_epoch) == len(turns)
        for start in range(0, max(by_epoch) - 2, 3):
            if {start, start + 1, start + 2} <= set(by_epoch):
                assert {by_epoch[start + n] for n in range(3)} == {0, 1, 2}


def test_another_seed_is_another_order(mixed: tuple[Manifest, DataConfig]) -> None:
    assert ids(read(mixed, 3)) != ids(read(mixed, 3, seed=6))


def test_groups_and_duplicates_never_meet(tmp_path: Path) -> None:
    """Groups across photos and sentences, one photo under two names, one sentence in two
    records.
    """
    photos, sentences = (
        write_photos(tmp_path, 60, groups=30),
        write_sentences(tmp_path, 60, groups=30),
    )
    twin = (tmp_path / "photos/photo-0004.png").read_bytes()
    (tmp_path / "photos/photo-0011.jpg").write_bytes(twin)
    (tmp_path / "sentences.tsv").write_text(
        (tmp_path / "sentences.tsv").read_text().replace("zweiter 7\t", "first 3\t")
    )
    data = DataConfig((photos, sentences), text_pair_share=0.5, records_per_shard=25)
    manifest = made(tmp_path / "run", data)
    group = {f"photos/photo-{i:04d}": f"g{i % 30}" for i in range(60)} | {
        f"sentences/sentences-{i + 1}": f"g{i % 30}" for i in range(60)
    }
    for batch in loader.batches(
        manifest, data, image_px=64, batch_pairs=26, seed=0, text_encoder=ENCODE, steps=100
    ):
        assert len({group[key] for key in batch.keys}) == 26
        assert not {"photos/photo-0004", "photos/photo-0011"} <= set(batch.keys)
        assert not {"sentences/sentences-4", "sentences/sentences-8"} <= set(batch.keys)


def test_batches_that_cannot_be_are_refused(mixed: tuple[Manifest, DataConfig]) -> None:
    with pytest.raises(ConfigError, match="3 ranks"):
        read(mixed, 1, world_size=3)
    with pytest.raises(ConfigError, match="only 61"):
        read(mixed, 1, batch_pairs=100)
    manifest, data = mixed
    with pytest.raises(ConfigError, match="only 47"):
        read((manifest, dataclasses.replace(data, text_pair_share=1.0)), 1, batch_pairs=64)


# ---------------------------------------------------------------- shards


def test_shards_are_plain_webdataset_tars(mixed: tuple[Manifest, DataConfig]) -> None:
    import webdataset

    manifest, data = mixed
    names = [shard.tar.name for shard in listed(manifest)]
    wanted = [f"photos-{n:05d}.tar" for n in range(4)]
    wanted += [f"sentences-{n:05d}.jsonl.zst" for n in range(3)]
    assert names == [shard_file(manifest, name).name for name in wanted]
    samples = [
        s
        for name in names[:4]
        for s in webdataset.WebDataset(str(Path(manifest.store) / name), shardshuffle=False)
    ]
    assert manifest.n_pairs == 108 and len(samples) == manifest.n_photo_pairs == 61
    folder = Path(data.sources[0].images)
    for sample in samples:
        about = json.loads(sample["json"])
        name = about["key"].split("/")[1]
        assert sample.get("jpg", sample.get("png")) == next(folder.glob(f"{name}.*")).read_bytes()
        assert about["languages"] == ["en"] * 3 and len(about["texts"]) == 3


def test_the_same_bytes_every_time(mixed: tuple[Manifest, DataConfig], tmp_path: Path) -> None:
    manifest, data = mixed
    again = made(tmp_path, data)
    assert listed(again) == listed(manifest)


def test_a_killed_run_goes_on_and_keeps_whole_shards(
    mixed: tuple[Manifest, DataConfig], tmp_path: Path
) -> None:
    manifest, data = mixed
    first = made(tmp_path, data)
    names = [f"photos-{n:05d}.{end}" for n in (1, 2) for end in ("tar", "index")]
    gone = [shard_file(first, name) for name in names]
    folder = Path(first.store)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    (tmp_path / "shards" / "manifest.json").unlink()  # killed before the end
    for path in [*folder.glob("list-*"), gone[3]]:
        path.unlink()
    gone[0].write_bytes(b"half")
    assert listed(made(tmp_path, data)) == listed(manifest)
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert {path for path in changed if not path.name.startswith("list-")} == set(gone)


def test_other_data_replaces_old_shards(tmp_path: Path) -> None:
    data = DataConfig((write_photos(tmp_path, 8),), records_per_shard=5)
    made(tmp_path / "run", data)
    write_photos(tmp_path, 8, captions=2)
    manifest = made(tmp_path / "run", data)
    rows = BatchPlan(manifest, data, 4, 0).records.rows((np.arange(8), np.arange(0)))
    assert rows.index.text_counts.tolist() == [2] * 8


def test_what_validation_left_out_is_not_there(tmp_path: Path) -> None:
    data = DataConfig(
        (write_photos(tmp_path, 6), write_sentences(tmp_path, 3)), text_pair_share=0.25
    )
    excluded = dict.fromkeys(
        [
            "photos/photo-0001",
            "photos/photo-0002#0",
            "photos/photo-0002#2",
            "sentences/sentences-2",
            "photos/photo-0003#1",
        ],
        "bad",
    )
    excluded |= dict.fromkeys([f"photos/photo-0005#{n}" for n in range(3)], "bad")
    manifest = made(tmp_path / "run", data, excluded)
    records = BatchPlan(manifest, data, 4, 0).records
    assert records.sizes == (4, 2)
    rows = records.rows((np.arange(4), np.arange(2)))
    read = [records.read(rows, row, 0, at_once=False) for row in range(6)]
    texts = {record.key: record.texts for record in read}
    assert texts == {
        "photos/photo-0000": [f"caption {c} of 0" for c in range(3)],
        "photos/photo-0002": ["caption 1 of 2"],
        "photos/photo-0003": ["caption 0 of 3", "caption 2 of 3"],
        "photos/photo-0004": [f"caption {c} of 4" for c in range(3)],
        "sentences/sentences-1": ["zweiter 0"],
        "sentences/sentences-3": ["zweiter 2"],
    }


def test_large_photos_are_shrunk_and_small_ones_kept(tmp_path: Path) -> None:
    source = write_photos(tmp_path, 4, side=300)
    sixteen = Image.fromarray(np.linspace(0, 65535, 400 * 500).astype(np.uint16).reshape(400, 500))
    sixteen.save(tmp_path / "photos/photo-0000.png")
    small = write_photos(tmp_path / "small", 2)
    data = DataConfig((source, dataclasses.replace(small, name="small")), max_short_side_px=256)
    manifest = made(tmp_path / "run", data)
    with tarfile.open(shard_file(manifest, "photos-00000.tar")) as tar:
        sizes = {
            m.name: decode_image(tar.extractfile(m).read()).shape
            for m in tar
            if not m.name.endswith((".json", ".txt"))
        }
    assert sizes == {
        f"{n:08d}.{'jpg' if n % 2 else 'png'}": (256, 320 if n == 0 else 265, 3) for n in range(4)
    }
    kept = made(tmp_path / "kept", dataclasses.replace(data, max_short_side_px=0))
    with tarfile.open(shard_file(kept, "photos-00000.tar")) as tar:
        assert (
            tar.extractfile("00000001.jpg").read()
            == (tmp_path / "photos/photo-0001.jpg").read_bytes()
        )


def test_stored_drawings_are_the_live_ones(tmp_path: Path) -> None:
    sources_ = (write_photos(tmp_path, 20), write_sentences(tmp_path, 10))
    data = DataConfig(sources_, text_pair_share=0.25, store_drawings=True)
    manifest = made(tmp_path / "run", data)
    renderer = Renderer.from_config(RENDER)
    live = dataclasses.replace(data, store_drawings=False)
    asked: list[int] = []

    class Counting(Renderer):
        def masks(self, texts: list[str]) -> np.ndarray:
            asked.append(len(texts))
            return super().masks(texts)

    counting = Counting(image_px=64)
    assert counting.digest == renderer.digest == manifest.render_digest
    stored = list(
        loader.batches(
            manifest, data, image_px=64, batch_pairs=8, seed=0, text_encoder=counting, steps=6
        )
    )
    drawn_live = list(
        loader.batches(
            manifest, live, image_px=64, batch_pairs=8, seed=0, text_encoder=ENCODE, steps=6
        )
    )
    assert all(batch.text_rows is None for batch in stored)
    assert sum(asked) == 6 * (2 + 2)  # only the text pairs' texts, which have no drawing
    for one, two in zip(stored, drawn_live, strict=True):
        assert torch.equal(one.second_text, two.second_text) and one.keys == two.keys
    png = Image.open(
        io.BytesIO(_member(shard_file(manifest, "photos-00000.tar"), "00000003.text.1.png"))
    )
    assert (
        png.mode == "1" and (np.asarray(png) == (renderer.render(["caption 1 of 3"])[0] != 0)).all()
    )


def _member(tar: Path, name: str) -> bytes:
    with tarfile.open(tar) as file:
        return file.extractfile(name).read()


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    data = DataConfig((write_photos(tmp_path, 12),), records_per_shard=5)
    manifest = made(tmp_path / "run", data)
    tar = shard_file(manifest, "photos-00001.tar")
    whole = tar.read_bytes()

    def start() -> None:
        list(
            loader.batches(
                shards.open_manifest(manifest.uri),
                data,
                image_px=64,
                batch_pairs=4,
                seed=0,
                text_encoder=ENCODE,
                steps=4,
            )
        )

    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"photos-.*-00001.tar.*delete it and run `render` again"):
        start()
    tar.unlink()
    with pytest.raises(ShardError, match=r"photos-.*-00001.tar"):
        start()
    tar.write_bytes(whole)
    index = shard_file(manifest, "photos-00001.index")
    content = index.read_bytes()
    for wrong in (
        content[:50],
        b"\0" * len(content),
        shard_file(manifest, "photos-00000.index").read_bytes(),
    ):
        index.write_bytes(wrong)
        with pytest.raises(ShardError, match=r"photos-.*-00001.index"):
            start()
    index.write_bytes(content)
    start()
    for wrong in (b"", b"[]", b'{"files": 3}', b"{"):
        (Path(manifest.uri) / "manifest.json").write_bytes(wrong)
        with pytest.raises(ShardError, match="manifest.json"):
            shards.open_manifest(manifest.uri)
    with pytest.raises(ShardError, match="run `render` again"):
        shards.open_manifest(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("is_here", [False, True], ids=["elsewhere", "here"])
def test_foreign_tars_train_directly(
    tmp_path: Path, is_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """img2dataset's tars, as they lie, also in the working folder; less what validation left
    out.
    """
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        with tarfile.open(tmp_path / f"0000{number}.tar", "w") as tar:
            for i in range(10):
                buffer = io.BytesIO()
                Image.fromarray(
                    np.random.default_rng([number, i]).integers(0, 256, (32, 48, 3), dtype=np.uint8)
                ).save(buffer, "JPEG")
                text = f"text {number} {i}"
                caption = (
                    ("txt", text.encode())
                    if i % 2
                    else ("json", json.dumps({"caption": text}).encode())
                )
                for extension, content in (("jpg", buffer.getvalue()), caption):
                    info = tarfile.TarInfo(f"{i:05d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    where = "." if is_here else str(tmp_path)
    path = "*.tar" if is_here else f"{where}/*.tar"
    data = DataConfig((SourceConfig("webdataset", path, name="web"),))
    manifest = made(tmp_path / "run", data, {"web/00001/00003": "bad"})
    assert manifest.n_pairs == manifest.n_photo_pairs == 19
    indexes = {shard_file(manifest, f"web-{n:05d}.index") for n in range(2)}
    others = {path for path in Path(manifest.store).iterdir() if path.is_file()} - indexes
    assert len(others) == 1 and others.pop().name.startswith("list-")
    assert [shard.tar.name for shard in listed(manifest)] == [
        f"{where}/0000{n}.tar" for n in range(2)
    ]
    keys: Counter[str] = Counter()
    for batch in loader.batches(
        manifest, data, image_px=64, batch_pairs=4, seed=0, text_encoder=ENCODE, steps=19
    ):
        keys.update(batch.keys)
        for key, text in zip(batch.keys, batch.second_text, strict=True):
            _, tar_name, member = key.split("/")
            assert (text.numpy() == ENCODE([f"text {int(tar_name)} {int(member)}"])[0]).all()
    assert len(keys) == 19 and "web/00001/00003" not in keys and set(keys.values()) <= {3, 4, 5}
    again = made(tmp_path / "run", data, {"web/00001/00003": "bad"})
    assert again == manifest


def test_the_index_knows_its_shard(mixed: tuple[Manifest, DataConfig]) -> None:
    manifest, _ = mixed
    parts = [index_file.load(shard_file(manifest, f"photos-{n:05d}.index"))[0] for n in range(4)]
    whole = shard_index.concatenate(parts)
    assert [whole.key(record) for record in range(61)] == [
        f"photos/photo-{i:04d}" for i in range(61)
    ]
    assert whole.text_counts.tolist() == [3] * 61 and len(set(whole.first_hashes.tolist())) == 61
    with open(shard_file(manifest, "photos-00000.tar"), "rb") as tar:
        for record in range(20):
            tar.seek(int(parts[0].second[record, 0]))
            assert json.loads(tar.read(int(parts[0].second[record, 1])))["key"] == parts[0].key(
                record
            )


def test_shards_in_a_bucket(
    mixed: tuple[Manifest, DataConfig], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written to and read from s3://, the same bytes and the same batches; a damaged object is
    refused.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _, data = mixed
    remote = made(f"{s3}/run", data)
    assert remote.uri.startswith("s3://") and listed(remote) == listed(mixed[0])
    assert made(f"{s3}/run", data) == remote
    opened = shards.open_manifest(remote.uri)
    assert [b.keys for b in read((opened, data), 4)] == [b.keys for b in read(mixed, 4)]
    assert torch.equal(read((opened, data), 1)[0].photos, read(mixed, 1)[0].photos)
    damaged = listed(remote)[1].tar
    storage.write_bytes(storage.join(remote.store, damaged.name), b"x" * damaged.bytes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another node's"))
    with pytest.raises(ShardError, match=f"{damaged.name}: record photos/photo-00.. is not what"):
        read((opened, data), 4)


def test_a_source_in_a_bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_photos(tmp_path / "set", 6)
    for path in (tmp_path / "set").rglob("*.*"):
        storage.upload(path, f"{s3}/set/{path.relative_to(tmp_path / 'set')}")
    local = DataConfig(
        (
            SourceConfig(
                "karpathy",
                str(tmp_path / "set/dataset.json"),
                images=str(tmp_path / "set/photos"),
                name="photos",
            ),
        )
    )
    remote = DataConfig(
        (
            SourceConfig(
                "karpathy", f"{s3}/set/dataset.json", images=f"{s3}/set/photos", name="photos"
            ),
        )
    )
    one, two = made(tmp_path / "one", local), made(tmp_path / "two", remote)
    assert [s.tar.sha256 for s in listed(one)] == [s.tar.sha256 for s in listed(two)]


@pytest.mark.slow
def test_memory_stays_level(
    mixed: tuple[Manifest, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than 1 MB more per 10,000 samples once warm, with nothing kept."""
    import psutil

    monkeypatch.setattr(loader, "KEEP_BYTES", 0)
    manifest, data = mixed
    process = psutil.Process(os.getpid())
    sizes = []
    for batch in loader.batches(
        manifest, data, image_px=64, batch_pairs=16, seed=0, text_encoder=ENCODE, steps=3000
    ):
        if batch.step % 625 == 624:
            sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[0] < 3 * 2**20
