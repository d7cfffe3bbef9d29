"""Exported models: a digest over all that decides them, and files that claim what they have not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from tower_reference import SMALL, flax_arrays, perturbed

from clippo_core import models
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import CheckpointError, ClippoError
from clippo_core.exported import open_exported
from clippo_core.models import npz

SENTENCES = [
    f"{who} sees {n} {what}" for who in ("she", "a dog") for n in range(60) for what in "ab"
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model."""
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    tower = perturbed(models.build_tower(ModelConfig(**{**SMALL, "depth": 1}), 32))
    Clippo(tower, RenderConfig(), device="cpu").save(path)
    return path


def header_of(path: Path) -> dict[str, object]:
    """What `clippo` in the header says."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["clippo"])


def forged(whole: Path, target: Path, **changes: object) -> Path:
    """The file with other facts (None = dropped), under a digest that does not fit them."""
    facts = {**header_of(whole), **changes}
    kept = {name: value for name, value in facts.items() if value is not None}
    target.write_bytes(save(load_file(whole), {"clippo": json.dumps(kept)}))
    return target


def flip_bits(whole: Path, folder: Path, n: int, seed: int) -> int:
    """Load the file with each of `n` bits flipped, every third in the header; how many loaded.
    Whatever loads is the same model.
    """
    source, content, loaded = random.Random(seed), whole.read_bytes(), 0
    expected = Clippo.load(whole, "cpu")
    weights = dict(expected.tower.named_parameters())
    end = 8 + int.from_bytes(content[:8], "little")
    for number in range(n):
        place = source.randrange(end if number % 3 == 0 else len(content))
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << source.randrange(8)
        path = folder / "spoilt.safetensors"
        path.write_bytes(spoilt)
        try:
            found = Clippo.load(path, "cpu")
        except CheckpointError as error:
            assert str(path) in str(error) and str(error).isprintable()
            continue
        loaded += 1
        assert found.weights_sha256 == expected.weights_sha256, place
        assert found.render == expected.render and found.tower.config == expected.tower.config
        for name, value in found.tower.named_parameters():
            assert torch.equal(value, weights[name]), (place, name)
    return loaded


def test_flipped_bits_are_found(whole: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flip_bits(whole, tmp_path, n=250, seed=1) <= 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights_sha256": "0" * 64}, "its digest is not that of its content; copy or export"),
        ({"render": {"image_px": 32, "monospace": True}}, "its digest is not that"),
        ({"digest": None}, "header: digest is missing"),
        ({"digest": 5}, "header: digest is a whole number"),
        ({"format": 1}, "its format is 1"),
        ({"format": 3}, "its format is 3, and this version reads 1 and 2; export it again"),
        ({"format": None}, "header: format is missing"),
        ({"model": None}, "model is missing"),
        ({"model": [1]}, "model is a list, and must be an object"),
        ({"model": {"width": "wide"}}, "model.width is 'wide'; it must be a whole number"),
        ({"render": 7}, "render is a whole number, and must be an object"),
        ({"render_digest": 7}, "render_digest is a whole number"),
        ({"warn_font": "no"}, "warn_font is a text, 'no', and must be true or false"),
        ({"weights_sha256": "../../x"}, "its weights_sha256 is '../../x', and no sha256"),
    ],
)
def test_headers_that_are_wrong(
    whole: Path, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    path = forged(whole, tmp_path / "forged.safetensors", **changes)
    with pytest.raises(CheckpointError, match=sentence) as error:
        Clippo.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "null", '{"format": 2, "format": 2}', ""])
def test_headers_that_are_no_facts(whole: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(save(load_file(whole), {"clippo": content}))
    with pytest.raises(CheckpointError, match=r"odd\.safetensors, header: "):
        Clippo.load(path)


def test_a_file_of_an_earlier_version_has_a_digest_of_its_own(whole: Path, tmp_path: Path) -> None:
    path = forged(
        whole, tmp_path / "old.safetensors", format=1, digest=None, weights_sha256="0" * 64
    )
    with pytest.warns(UserWarning, match="of an earlier version, without a digest") as told:
        loaded = Clippo.load(path, "cpu")
    assert len(told) == 1 and loaded.weights_sha256 == Clippo.load(whole, "cpu").weights_sha256
    loaded.save(tmp_path / "new.safetensors")
    assert (tmp_path / "new.safetensors").read_bytes() == whole.read_bytes()


def test_the_digest_is_compared_where_tensors_are_read(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "swapped.safetensors"
    weights = load_file(whole)
    weights["norm.weight"], weights["norm.bias"] = weights["norm.bias"], weights["norm.weight"]
    path.write_bytes(save(weights, {"clippo": json.dumps(header_of(whole))}))
    with open_exported(path, "it") as exported, pytest.raises(CheckpointError, match="its digest"):
        exported.tensors()


def test_a_tokenizer_that_is_missing_or_too_large(tmp_path: Path) -> None:
    tokenizers = [
        models.train_tokenizer(SENTENCES, str(tmp_path / f"{size}.model"), vocab_size=size)
        for size in (280, 300)
    ]
    config = ModelConfig("one_tower_clip", **SMALL, tokenizer=tokenizers[0], text_tokens=5)
    tower = models.build_tower(config, 32)
    encoder = models.text.TokenEncoder(tokenizers[1], 5)
    path = tmp_path / "model.safetensors"
    Clippo(tower, RenderConfig(), device="cpu", text_encoder=encoder).save(path)
    with pytest.raises(CheckpointError, match="its tokenizer has .* pieces, and its tower knows"):
        Clippo.load(path)
    weights = load_file(path)
    del weights["tokenizer.model"]
    path.write_bytes(save(weights, {"clippo": json.dumps(header_of(path))}))
    with pytest.raises(CheckpointError, match="digest|its tokenizer is missing"):
        Clippo.load(path)


LIES = {
    "blocks of an .npz": "block 99,999,999 of an .npz",
    "blocks of a timm file": "block 99,999,999 of a timm file",
    "depth of an exported file": "a depth of 99,999,999",
    "width of an exported file": "a width of 10**9",
    "page of an exported file": "a page of 16 * 10**12 pixels",
}


def lying_file(lie: str, whole: Path, folder: Path) -> Path:
    """A small file that claims a tower that would fill any memory."""
    tower = models.build_tower(ModelConfig(**SMALL), 48)
    if lie == "blocks of an .npz":
        arrays = {f"params/{key}": value for key, value in flax_arrays(tower).items()}
        last = "params/img/Transformer/encoderblock_1/"
        claimed = last.replace("_1/", "_99999999/")
        np.savez(
            folder / "lie.npz",
            **{
                key.replace(last, claimed): value.astype(np.float32)
                for key, value in arrays.items()
            },
        )
        return folder / "lie.npz"
    path = folder / "lie.safetensors"
    if lie == "blocks of a timm file":
        state = {
            name.replace("blocks.1.", "blocks.99999999."): value.detach()
            for name, value in tower.named_parameters()
            if name.startswith(("patch", "pos_embed", "blocks", "norm"))
        }
        path.write_bytes(save(state))
        return path
    facts = header_of(whole)
    change = {
        "depth of an exported file": ("model", {"depth": 99_999_999}),
        "width of an exported file": ("model", {"width": 10**9}),
        "page of an exported file": ("render", {"image_px": 16 * 10**12}),
    }[lie]
    return forged(whole, path, **{change[0]: {**facts[change[0]], **change[1]}})


PROGRAM = """
import resource, sys
from clippo_core import models
from clippo_core.config import ModelConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import CheckpointError
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**29,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[1:]:
    for read in (Clippo.load, models.load_image_only):
        try:
            read(path)
        except CheckpointError as error:
            assert path in str(error) or "timm" in str(error), error
            print(error)
        else:
            print("read")
"""


def test_claims_of_size_take_no_memory(whole: Path, tmp_path: Path) -> None:
    paths = []
    for number, lie in enumerate(LIES):
        (tmp_path / str(number)).mkdir()
        paths.append(str(lying_file(lie, whole, tmp_path / str(number))))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(LIES) and sum(line == "read" for line in lines) <= 3, lines


def test_an_npz_that_unpacks_to_much_more_than_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "UNPACKED_SLACK_BYTES", 2**20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{"params/img/embedding/kernel": np.zeros((16, 16, 3, 2000))})
    with pytest.raises(
        CheckpointError, match=r"claim 12,288,000 bytes, packed into [0-9,]+; write"
    ):
        models.load_big_vision(path)


def test_every_refusal_is_of_the_tree(whole: Path, tmp_path: Path) -> None:
    """Random damage of more than a bit, cut files and foreign bytes."""
    source, content = random.Random(3), whole.read_bytes()
    for _ in range(20):
        spoilt = bytearray(content)
        start = source.randrange(2000)
        spoilt[start : start + source.randrange(40)] = source.randbytes(source.randrange(40))
        path = tmp_path / "spoilt.safetensors"
        path.write_bytes(spoilt[: source.choice((len(spoilt), source.randrange(len(spoilt))))])
        with pytest.raises(ClippoError, match="spoilt"):
            Clippo.load(path)
