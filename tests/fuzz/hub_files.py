"""Datasets as strangers may put them on the Hugging Face hub: parquet files, and their cards."""

from __future__ import annotations

import json
import random
from typing import Any

from data_files import FILE_ENDS, hf_parquet
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies import JSON_VALUES, damaged, fuzzed

OUTSIDE = "/outside/private.parquet"
"""Stands in a card for a file of the reader's own machine."""
_PATHS = st.sampled_from(["data/train-*", "data/*", "**", "train.parquet"])
_ELSEWHERE = st.sampled_from(
    [OUTSIDE, "../../../private.parquet", "data/../../../../../private.parquet", "/outside/*",
     "http://127.0.0.1:1/x.parquet", "file:///outside/private.parquet", "*.csv", "/", "", "~", "[",
     "zip://x.parquet::data/a.zip", "hf://datasets/people/other/train.parquet", "\udce9", "a\0b",
     "memory://x.parquet", "data/{train}-*", "data/é.parquet", "**/**/**/**/*"]
)  # fmt: skip
_NAMES = st.sampled_from(["data/train-0.parquet", "data/train-1.parquet", "train.parquet"])
_ODD_NAMES = st.sampled_from(
    ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "train.csv",
     "data/é.parquet", "train.parquet.zip", "train.jsonl", "train.tar", "train.arrow",
     "photos.py", ".hidden.parquet", "a.parquet/b.parquet", "data/train 0.parquet", "x.txt",
     "data/train-99999999999-of-99999999999.parquet", "metadata.csv", "k" * 240 + ".parquet",
     "data/test-0.parquet"]
)  # fmt: skip
_FEATURES = st.sampled_from(["binary", "string", "int64", "image"])


def _bomb(levels: int) -> str:
    """Lists that name the list before nine times: few characters, and 9 ** levels values."""
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    for level in range(1, levels):
        lines.append(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 9)}]")
    return "\n".join([*lines, f"configs: *x{levels - 1}"])


_TRAPS = [
    "configs: " + "[" * 800,
    "configs:\n- config_name: default\n  data_files: !!python/object/apply:os.system ['true']",
    "a: &a [*a]", "a: 1\na: 2", "configs: {", "\t- x", "[]", "null", "- a", "%YAML 9.9", "\u2028",
    "dataset_info:\n  features: " + "{a: " * 70 + "1" + "}" * 70,
    "configs:\n- &a {config_name: a}\n- {<<: *a, data_files: x}", "x: 0o7777777777777777777777",
    "x: 2001-99-99", "x: 1:" + ":59" * 4000, "x: " + "9" * 5000, "language: " + "[en, " * 40,
    _bomb(3), _bomb(6), _bomb(9), _bomb(14),
]  # fmt: skip


def _card(draw: DrawFn) -> str:
    """The YAML of a card: right, with a field that lies, or a trap."""
    lie = draw(st.integers(0, 9))
    if lie == 0:
        return str(draw(st.sampled_from(_TRAPS)))
    files: Any = draw(_ELSEWHERE if lie == 1 else _PATHS)
    if draw(st.booleans()):
        split = draw(st.sampled_from(["test", "a-b", 1])) if lie == 2 else "train"
        files = [{"split": split, "path": files}]
    config = {"config_name": "default", "data_files": files}
    for name in ("config_name", "data_dir", "columns", "filters", "batch_size", "features"):
        if lie == 3 and draw(st.booleans()):
            config[name] = draw(JSON_VALUES | _ELSEWHERE)
    kinds = [draw(_FEATURES | JSON_VALUES if lie == 4 else _FEATURES) for _ in range(2)]
    features = [{"name": name, "dtype": kinds.pop()} for name in ("image", "text")]
    info = {
        "features": features,
        "splits": [{"name": "train", "num_examples": 10**lie, "num_bytes": lie}],
    }
    card: dict[str, Any] = {"license": "mit", "configs": [config] * (2 if lie == 5 else 1)}
    if draw(st.booleans()):
        card["dataset_info"] = draw(JSON_VALUES) if lie == 6 else info
    return json.dumps(card)  # json is YAML


@fuzzed("hf-hub")
def hub_dataset(draw: DrawFn) -> bytes:
    """A dataset as one file: names and contents, as `data_files.folder_files` writes them."""
    names = _ODD_NAMES | _NAMES if draw(st.integers(0, 4)) == 4 else _NAMES
    files = {
        name: hf_parquet(draw)
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    }
    rng = random.Random(draw(st.integers(0, 2**64 - 1)))
    if draw(st.booleans()):
        start = draw(st.sampled_from(["---\n", "\ufeff---\n", "\n ---\r\n", "--\n"]))
        files["README.md"] = f"{start}{_card(draw)}\n---\n# Photos\n".encode(errors="surrogatepass")
    if draw(st.integers(0, 9)) == 9:
        files[".huggingface.yaml"] = damaged(_card(draw).encode(errors="surrogatepass"), rng)
    if draw(st.integers(0, 9)) == 9:
        values = draw(
            JSON_VALUES | st.just({"default": {"features": {"text": {"_type": "Image"}}}})
        )
        files["dataset_infos.json"] = damaged(json.dumps(values).encode(), rng)
    return FILE_ENDS.join(name.encode() + b"\0" + data for name, data in files.items())
