"""The order of batches: a function of (seed, step), each record once an epoch, no group, photo or
text twice in a batch, for any size, and in the memory of a window.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clippo_core.data.order import Marks, Order, Pool, epoch_records, permuted, window_steps
from clippo_core.data.pairs import choose_text, key_hash
from clippo_core.errors import ConfigError

Records = list[tuple[int, int, list[int]]]
"""(group, first, texts) of each record; group 0 = alone."""


def pool(records: Records, kind: str = "photo") -> Pool:
    """A pool that knows its records' marks from a list."""
    keys = np.array([key_hash(f"{kind}-{i}") for i in range(len(records))], np.uint64)

    def marks(wanted: np.ndarray) -> Marks:
        rows = [records[record] for record in wanted.tolist()]
        return Marks(
            keys[wanted],
            np.array([group for group, _, _ in rows], np.uint64),
            np.array([first for _, first, _ in rows], np.uint64),
            np.array([len(texts) for _, _, texts in rows], np.int64),
            np.array([text for _, _, texts in rows for text in texts], np.uint64),
        )

    return Pool(len(records), marks, lambda record: f"{kind}-{record}")


def distinct(n: int, start: int = 10**6) -> Records:
    """Records that share nothing."""
    return [(0, start + 2 * i, [start + 2 * i + 1]) for i in range(n)]


def order(
    photos: Records, texts: Records, p: int, m: int, seed: int = 0, window: int = 2**20, block=128
) -> Order:
    return Order(
        pool(photos),
        pool(texts, "text"),
        p,
        m,
        seed,
        window_records=window,
        block_records=block,
    )


def drawn(
    made: Order, photos: Records, texts: Records, steps: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(record, epoch) of all places of the first steps, photos and text pairs; each batch checked:
    no record, group, photo or text stands in it twice.
    """
    draws = [made.draw(step) for step in range(steps)]
    p, parts = made.places[0], []
    used: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for kind, (pool_, rows) in enumerate(((pool(photos), photos), (pool(texts, "text"), texts))):
        place = slice(p) if kind == 0 else slice(p, None)
        records, said, epochs = (
            np.concatenate([getattr(draw, name)[place] for draw in draws])
            for name in ("records", "texts", "epochs")
        )
        marks = pool_.marks(records)
        assert (said == choose_text(marks.text_counts, marks.key_hashes, made.seed, epochs)).all()
        used[kind].extend(zip(records.tolist(), epochs.tolist(), strict=True))
        for nth, (record, text) in enumerate(zip(records.tolist(), said.tolist(), strict=True)):
            group, first, captions = rows[record]
            step = nth // made.places[kind]
            names: set[object] = {first, captions[text], (kind, record)}
            parts += [(step, name) for name in names | ({("group", group)} if group else set())]
    assert max(Counter(parts).values()) == 1
    return used


def once_an_epoch(used: list[tuple[int, int]], n: int) -> None:
    """Whole windows from step 0 on hold the first so many records of the stream, each once."""
    counts = Counter(used)
    assert not used or max(counts.values()) == 1
    epochs = Counter(epoch for _, epoch in used)
    assert [epochs[e] for e in range(len(epochs) - 1)] == [n] * max(0, len(epochs) - 1)


# ---------------------------------------------------------------- the stream


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 1023, 1025, 4096])
def test_a_permutation_that_is_computed(n: int) -> None:
    one = permuted(np.arange(n), n, 0, 0)
    assert sorted(one.tolist()) == list(range(n))
    assert (permuted(np.arange(n)[::3], n, 0, 0) == one[::3]).all()
    if n > 500:
        for other in (permuted(np.arange(n), n, 1, 0), permuted(np.arange(n), n, 0, 1)):
            assert sorted(other.tolist()) == list(range(n)) and (one == other).mean() < 0.02
        assert abs(np.corrcoef(one, np.arange(n))[0, 1]) < 0.1


def test_a_permutation_of_web_scale_reaches_everywhere() -> None:
    n = 12 * 10**9
    images = permuted(np.arange(10**5) * 10**5, n, 0, 0)
    assert len(set(images.tolist())) == 10**5 and images.min() >= 0 and images.max() < n
    tenths = np.bincount(images * 10 // n, minlength=10)
    assert (abs(tenths - 10**4) < 500).all()


@pytest.mark.parametrize(("n", "block"), [(1000, 16), (1000, 1), (61, 128), (128, 128), (129, 128)])
def test_an_epoch_has_each_record_once_in_blocks_of_neighbours(n: int, block: int) -> None:
    one = epoch_records(np.arange(n), n, block, 0, 0)
    assert sorted(one.tolist()) == list(range(n))
    assert (one != epoch_records(np.arange(n), n, block, 0, 1)).any()
    assert (epoch_records(np.arange(n)[n // 3 :], n, block, 0, 0) == one[n // 3 :]).all()
    jumps = ((one[1:] - one[:-1]) % n != 1).sum()
    assert jumps <= n // block


def test_epochs_have_other_borders() -> None:
    """Neighbours that one epoch parts stay together in another."""
    starts = [
        frozenset((epoch_records(np.arange(0, 1024, 16), 1024, 16, 0, epoch) % 16).tolist())
        for epoch in range(8)
    ]
    assert len(set(starts)) > 3


# ---------------------------------------------------------------- batches


def shared_records(
    rng: np.random.Generator, n: int, start: int, marks: int, busy: float
) -> Records:
    """A share `busy` of the records have a group, of the others' photos, or their texts."""

    def one(i: int) -> tuple[int, int, list[int]]:
        group, first = (int(x) for x in rng.integers(1, marks, 2))
        return (
            group if rng.random() < busy else 0,
            first if rng.random() < busy / 2 else start + 10 * i,
            [
                int(rng.integers(1, marks)) if rng.random() < busy else start + 10 * i + 1 + nth
                for nth in range(rng.integers(1, 4))
            ],
        )

    return [one(i) for i in range(n)]


def check_a_small_case(numbers: int) -> None:
    """Groups over both pools, photos and texts that several records share, several captions, epochs
    that end within batches, windows of less and of more than an epoch: nothing lost, repeated, or
    twice in a batch. What is refused is named, and frequent: in more than half of the batches.

    Records that share a group, a photo and a text with others each may have no order although each
    mark alone has one: of two places and 24 batches with a mark in 18, at most 22 can be filled.
    """
    rng = np.random.default_rng(numbers)
    p, m = (int(n) for n in rng.integers(0, (17, 9)))
    p, spread = p if p + m else 1, rng.uniform(1, 6)
    busy, window_steps = rng.choice([0, 0.05, 0.3, 1]), int(rng.choice([1, 24, 60, 200]))
    sizes = [int(rng.integers(n, 1 + spread * n)) if n else 0 for n in (p, m)]
    marks = 3 + int(rng.integers(1, 8)) * (p + m)
    photos = shared_records(rng, sizes[0], 10**6, marks, busy)
    texts = shared_records(rng, sizes[1], 2 * 10**6, marks, busy)
    made = order(photos, texts, p, m, numbers, window_steps * (p + m), block=4)
    try:
        used = drawn(made, photos, texts, 2 * made.window_steps)
    except ConfigError as error:
        (times, batches) = map(
            int, re.search(r"drawn (\d+) times within (\d+)", str(error)).groups()
        )
        assert 2 * times > batches and re.search(r"of (photo|text)-\d+ is drawn", str(error))
        return
    for part, n in zip(used, sizes, strict=True):
        once_an_epoch(part, n)
    step = int(rng.integers(2 * made.window_steps))
    again = order(photos, texts, p, m, numbers, window_steps * (p + m), block=4)
    whole = made.draw(step).records
    assert (again.draw(step).records == whole).all()


@settings(max_examples=60, deadline=None)
@given(numbers=st.integers(0, 2**31))
def test_small_cases(numbers: int) -> None:
    check_a_small_case(numbers)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(numbers=st.integers(0, 2**31))
def test_many_small_cases(numbers: int) -> None:
    check_a_small_case(numbers)


@given(share=st.floats(0, 1), world=st.integers(1, 64), each=st.integers(1, 20))
def test_ranks_share_a_batch_in_contiguous_places(share: float, world: int, each: int) -> None:
    p = round(share * world * each)
    made = order(distinct(1300), distinct(1300), p, world * each - p)
    parts = [made.rank_slices(rank, world) for rank in range(world)]
    assert {len(np.r_[part]) for part in parts} == {each}
    assert np.concatenate([np.r_[photos] for photos, _ in parts]).tolist() == list(range(p))
    texts = np.concatenate([np.r_[texts] for _, texts in parts]).tolist()
    assert texts == list(range(p, world * each))


@pytest.mark.parametrize(("p", "m"), [(92, 0), (69, 23), (74, 18), (46, 46), (1, 91), (60, 20)])
def test_as_many_groups_as_places(p: int, m: int) -> None:
    """The tightest case: 92 groups of 10 photos and 5 sentence pairs, and up to 92 places in a
    batch: each group stands in each batch, its captions shared by its records.
    """
    photos = [
        (g, 10**6 + 10 * g + i, [100 * g + c for c in range(4)])
        for g in range(1, 93)
        for i in range(10)
    ]
    texts = [(g, 100 * g + 20 + i, [100 * g + 10 + i]) for g in range(1, 93) for i in range(5)]
    made = order(photos, texts, p, m, 1)
    for part, n in zip(drawn(made, photos, texts, made.window_steps), (920, 460), strict=True):
        once_an_epoch(part, n)


def test_captions_that_many_photos_share() -> None:
    rng = np.random.default_rng(0)
    photos = [(0, 10**6 + i, (rng.choice(300, 5, replace=False) + 1).tolist()) for i in range(400)]
    drawn(order(photos, [], 64, 0), photos, [], 100)


def test_impossible_batches_are_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match="only 10; lower train.batch_pairs"):
        order(distinct(10), [], 11, 0)
    one_group = [(1, 10**6 + i, [10**7 + i]) for i in range(50)] + distinct(50)
    with pytest.raises(ConfigError, match=r"the group of photo-\d+ is drawn 50 times within 20 b"):
        order(one_group, [], 5, 0).draw(0)
    one_caption = [(0, 10**6 + i, [7]) for i in range(50)] + distinct(50)
    with pytest.raises(ConfigError, match=r"the text 0 of text-\d+ is drawn 50 times within 20 "):
        order([], one_caption, 0, 5).draw(0)


def test_a_small_pool_has_windows_of_whole_epochs() -> None:
    assert window_steps((7360, 1840), (69, 23), 2**20) == 320  # 3 and 4 epochs
    assert window_steps((61, 0), (12, 0), 2**20) == 61
    assert window_steps((61, 47), (12, 4), 2**20) == 16 * 11
    assert window_steps((10**10, 10**10), (7680, 2560), 2**20) == 102
    assert window_steps((10**10, 0), (10**6, 0), 2**20) == 16


@pytest.mark.parametrize("groups", [0, 92])
def test_epochs_of_a_small_pool_follow_each_other(groups: int) -> None:
    """Though a window has several, nearly all of an epoch is drawn before the next one begins."""
    photos = [(groups and 1 + i % groups, 10**6 + 2 * i, [10**6 + 2 * i + 1]) for i in range(7360)]
    texts = [(groups and 1 + i % groups, 10**7 + 2 * i, [10**7 + 2 * i + 1]) for i in range(1840)]
    made = order(photos, texts, 69, 23)
    assert (made.window_steps, made.run_steps) == (320, 80)
    used, _ = drawn(made, photos, texts, 320)
    drawn_early = [epoch for _, epoch in used[: 69 * 80]]
    assert np.mean(np.array(drawn_early) == 0) > 0.95


def test_where_a_step_stands_costs_nothing() -> None:
    photos = distinct(61)
    fresh, worn = order(photos, [], 12, 0), order(photos, [], 12, 0)
    for step in range(3000):
        worn.draw(step)
    assert (fresh.draw(2999).records == worn.draw(2999).records).all()
    assert len(fresh.draw(10**9).records) == 12


def test_twelve_billion_records_fit_into_little_memory() -> None:
    """A batch of 10,240 from anywhere, in a process of its own: less than 400 MB at its peak."""
    script = """
import numpy as np
from clippo_core.data.order import Marks, Order, Pool
from clippo_core.data.pairs import mix

def marks(records):
    own, ones = mix(records.astype(np.uint64), 1, 0), np.ones(len(records), np.int64)
    return Marks(own, np.zeros_like(own), own, ones, mix(own, 2, 0))

n = 12 * 10**9
pools = Pool(n, marks, str), Pool(0, marks, str)
order = Order(*pools, 10240, 0, 0, window_records=2**20, block_records=128)
for step in (0, 10**6, 3 * 10**6):  # the last in the third epoch
    records = order.draw(step).records
    assert len(set(records.tolist())) == 10240 and np.ptp(records) > 0.99 * n
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak.split()[1]) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 400, "MB"
