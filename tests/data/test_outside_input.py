"""What strangers hand in as data: each fault is counted and named, or refused in one sentence, and
the rest goes on.
"""

from __future__ import annotations

import gzip
import html
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared import Validated, validated, written
from web_tars import tar_bytes

from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import loader, parts
from clippo_core.data.images import _taps, decode_image, squash
from clippo_core.data.pairs import Record
from clippo_core.data.sources.kinds import read_source
from clippo_core.data.sources.splitter import split_sentences
from clippo_core.data.sources.tars import picture_bytes
from clippo_core.data.validate.facts import Facts
from clippo_core.errors import DataError, ImageError, RenderError
from clippo_core.rendering import Renderer, font
from clippo_core.report.decks import validation_deck

RENDER = RenderConfig(image_px=64)


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def web_tar(number: int) -> bytes:
    """A sound tar of three records."""
    members: dict[str, bytes] = {}
    for n in range(3 * number, 3 * number + 3):
        members |= {f"{n:04d}.jpg": jpeg(n), f"{n:04d}.txt": f"caption {n}".encode()}
    return tar_bytes(members)


def bad_tars() -> dict[str, bytes]:
    whole = web_tar(99)
    return {
        "cut": whole[:3000],
        "without-end": whole.rstrip(b"\0") + bytes(512 - len(whole.rstrip(b"\0")) % 512),
        "empty": b"",
        "no-member": bytes(10_240),
        "gzip": gzip.compress(whole),
        "page": b"<html>503 Slow Down</html>" * 100,
        "two-in-one": whole + whole,
        "damaged": whole[:512] + b"\xff" * 512 + whole[1024:-9000] + b"\xaa" * 9000,
    }


def web_data(folder: Path, bad: dict[str, bytes], max_bad_share: float) -> DataConfig:
    """30 good tars, and bad ones among them."""
    for n in range(30):
        (folder / f"{n:05d}.tar").write_bytes(web_tar(n))
    for name, content in bad.items():
        (folder / f"00015-{name}.tar").write_bytes(content)
    source = SourceConfig("webdataset", str(folder / "*.tar"), name="web")
    return DataConfig((source,), max_bad_share=max_bad_share)


def trained_on(data: DataConfig, found: Validated, folder: Path) -> list[str]:
    """The ids of the records in the batches of four epochs."""
    manifest = written(folder, data, RENDER, found.judged)
    encode = Renderer.from_config(RENDER)
    made = loader.batches(
        manifest, data, image_px=32, batch_pairs=9, seed=0, text_encoder=encode,
        steps=4 * manifest.n_pairs // 9,
    )  # fmt: skip
    return sorted({key for batch in made for key in batch.keys})


GOOD = [f"web/{n:05d}/{3 * n + k:04d}" for n in range(30) for k in range(3)]


def test_thirty_good_tars_train_beside_every_kind_of_bad_one(tmp_path: Path) -> None:
    bad = bad_tars()
    data = web_data(tmp_path, bad, 0.25)
    found = validated(tmp_path / "run", data, RENDER)
    assert set(found.excluded) == {f"web/00015-{name}" for name in bad}
    tars, records = found.report.expectations[:2]
    assert (tars.checked, tars.failed) == (30 + len(bad), len(bad))
    assert (records.checked, records.failed) == (90 + len(bad), len(bad))
    page = html.unescape(validation_deck(found.report))
    (facts,) = found.judged.facts
    known = parts.read(str(tmp_path / "run" / "prepared"), facts, Facts)
    shown = [tar.problem for tar in known.tars if tar.problem]
    assert len(shown) == len(bad) and all(reason.endswith(".") for reason in shown)
    assert all(any(f"/00015-{name}.tar: " in reason for reason in shown) for name in bad)
    worst = found.report.expectations[0].worst  # a path may be longer than what the page shows
    assert len(worst) == 3 and all(row.partition(": ")[0] in page for row in worst)
    assert trained_on(data, found, tmp_path / "run") == GOOD


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(bad_tars()))
def test_one_bad_tar_among_thirty_is_within_the_share(tmp_path: Path, kind: str) -> None:
    data = web_data(tmp_path, {kind: bad_tars()[kind]}, 0.05)
    found = validated(tmp_path / "run", data, RENDER)
    assert list(found.excluded) == [f"web/00015-{kind}"]
    assert all(expectation.passed for expectation in found.report.expectations)
    assert trained_on(data, found, tmp_path / "run") == GOOD


def test_too_many_bad_tars_stop_the_run_though_their_records_are_few(tmp_path: Path) -> None:
    bad = {name: bad_tars()[name] for name in ("cut", "gzip")}
    with pytest.raises(DataError, match=r"2 of 32 tars are unusable, .* 5.00%: web/00015-cut"):
        validated(tmp_path / "run", web_data(tmp_path, bad, 0.05), RENDER)


def problems(kind: str, path: Path, content: bytes, **options: str) -> list[Record]:
    path.write_bytes(content)
    return list(read_source(SourceConfig(kind, str(path), images=str(path.parent), **options)))  # type: ignore[arg-type]


DEEP = b"[" * 100_000


def test_names_that_are_no_unicode_are_counted(tmp_path: Path) -> None:
    members = {"\udce9.jpg": jpeg(1), "\udce9.txt": b"x", "2.jpg": jpeg(2), "2.txt": b"y"}
    records = problems("webdataset", tmp_path / "a.tar", tar_bytes(members))
    assert [bool(record.problem) for record in records] == [True, False]
    assert "not UTF-8" in records[0].problem and records[0].key.isprintable()
    half = {"filename": "\ud800.jpg", "sentences": [{"raw": "a"}]}
    good = {"filename": "1.jpg", "sentences": [{"raw": "a"}]}
    language = {"filename": "2.jpg", "sentences": [{"raw": "a", "language": "\udc00"}]}
    content = json.dumps({"images": [half, good, language]}).encode()
    records = problems("karpathy", tmp_path / "k.json", content)
    assert [bool(record.problem) for record in records] == [True, False, True]
    for name in (b"\xe9.jpg", b"\xe9.txt", b"z.jpg", b"z.txt"):
        (tmp_path / "named").mkdir(exist_ok=True)
        Path(os.fsdecode(os.fsencode(tmp_path / "named") + b"/" + name)).write_bytes(b"x")
    records = list(read_source(SourceConfig("folder", str(tmp_path / "named"))))
    assert [bool(record.problem) for record in records] == [True, False]
    assert "not UTF-8; rename it" in records[0].problem
    lines = [{"image/key": "\ud800"}, {"image/key": "b", "en": {"caption": ["c"]}}]
    lines.append({"image/key": "d", "\ud800": {"caption": ["c"]}})
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    records = problems("xm3600", tmp_path / "x.jsonl", content)
    assert [bool(record.problem) for record in records] == [True, False, True]


@pytest.mark.parametrize("kind", ["c4", "xm3600", "webdataset"])
def test_deep_json_is_one_bad_record(tmp_path: Path, kind: str) -> None:
    good = {
        "c4": b'{"text": "One. Two."}',
        "xm3600": b'{"image/key": "a", "en": {"caption": ["x"]}}',
    }
    if kind == "webdataset":
        members = {"1.jpg": b"x", "1.json": DEEP, "2.jpg": b"x", "2.json": b'{"caption": "y"}'}
        records = problems(kind, tmp_path / "a.tar", tar_bytes(members))
    else:
        records = problems(kind, tmp_path / "a.jsonl", DEEP + b"\n" + good[kind] + b"\n")
    assert [bool(record.problem) for record in records] == [True, False]
    assert "nested more than 64 deep" in records[0].problem


def test_a_caption_that_is_a_text_is_no_list_of_letters(tmp_path: Path) -> None:
    content = b'{"image/key": "a", "en": {"caption": "a dog"}}\n'
    (record,) = problems("xm3600", tmp_path / "x.jsonl", content)
    assert (
        not record.texts and "en.caption is a text, 'a dog', and must be a list" in record.problem
    )


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bomb.json.gz: its first .* unpack to more than"):
        problems("karpathy", tmp_path / "bomb.json.gz", gzip.compress(b" " * 2**27))
    with pytest.raises(DataError, match="bomb.txt.gz"):
        problems("sentences", tmp_path / "bomb.txt.gz", gzip.compress((b"a" * 2**24 + b"\n") * 9))


def test_a_span_that_a_stranger_wrote_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x")
    for span in ("0+99999999999", "-1+5", "0", "a+b", "1_0+1"):
        with pytest.raises(ImageError, match=r"x.tar#"):
            picture_bytes(f"{tmp_path}/x.tar#{span}")


def test_a_pipe_or_device_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", Path("/dev/zero")):
        with pytest.raises(ImageError, match="it is no file"):
            decode_image(path)


def test_a_reason_is_a_function_of_the_bytes() -> None:
    """PIL's words name the address of the buffer that it read from."""
    found = set()
    for data in [b"<html>not found</html>"] * 3:
        with pytest.raises(ImageError) as refused:
            decode_image(bytes(bytearray(data)), "a.jpg")
        found.add(str(refused.value))
    assert len(found) == 1 and "0x" not in found.pop()


@pytest.mark.parametrize(
    "line",
    ["00_41:" + "0" * 32, "0x41:" + "0" * 32, "+41:" + "0" * 32, "41:0x" + "0" * 30,
     "٤١:" + "0" * 32, "41:" + "_0" * 16, "41:-" + "0" * 31, "110000:" + "0" * 32,
     "41:" + "0" * 33, "41", ":00"],
)  # fmt: skip
def test_hex_fonts_hold_plain_digits(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.hex"
    path.write_text(f"0042:{'0' * 32}\n{line}\n")
    with pytest.raises(RenderError, match=r"a.hex, line 2: .*; "):
        font.read_hex(path)
    path.write_text(f"0042:{'0' * 32}\n\n0043:{'F' * 64}\r\n")
    assert font.read_hex(path).code_points.tolist() == [0x42, 0x43]


@pytest.mark.parametrize(
    "text", ["." * 2**21, "Mr. " * 2**19, "a" * 2**21 + ". B", '."' * 2**20, " " * 2**21]
)
def test_splitting_takes_time_in_proportion_to_the_text(text: str) -> None:
    """Each took hours when it did not."""
    assert split_sentences(text) == ([text.strip()] if text.strip() else []) or "B" in text


def test_a_tall_picture_is_squashed_within_its_square() -> None:
    """8 x 8,000,000 pixels are a PNG of 200 kB; its rows at full width would take 20 GB."""
    random = np.random.default_rng(0)
    for height in (64, 65, 129, 1000):
        image = random.integers(0, 256, (height, 9, 3), dtype=np.uint8)
        top, bottom, down = _taps(height, 32)
        left, right, across = _taps(9, 32)
        pixels = image.astype(np.float32)
        rows = pixels[:, left] + (pixels[:, right] - pixels[:, left]) * across[:, None]
        expected = rows[top] + (rows[bottom] - rows[top]) * down[:, None, None]
        assert np.array_equal(squash(image, 32), expected.astype(np.uint8)), height


CHILD = """
import concurrent.futures, io, resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from clippo_core.data.images import decoded_image, squash
from clippo_core.untrusted.pictures import BUDGET
buffer = io.BytesIO()
Image.fromarray(np.zeros((8_000_000, 8, 3), np.uint8)).save(buffer, "PNG", compress_level=1)
data = buffer.getvalue()
pages = int(Path("/proc/self/statm").read_text().split()[0])
bound = pages * resource.getpagesize() + BUDGET.total_bytes + 2**30
resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
def side(_):
    with decoded_image(data, "tall") as pixels:
        return squash(pixels, 224).shape[0] * min(pixels.shape[:2])
with concurrent.futures.ThreadPoolExecutor(6) as pool:
    print(sum(pool.map(side, range(6))), BUDGET.most_taken_bytes <= BUDGET.total_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_threads_decode_the_worst_pictures_within_the_budget() -> None:
    """Six threads, each with a picture of 64 megapixels: without the budget they take 6 GB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == [str(6 * 224 * 8), "True"], done.stderr[-2000:]
