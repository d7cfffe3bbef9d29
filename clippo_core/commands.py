"""What the commands of `python -m clippo_core` do, each in a few lines over `Clippo`, `Renderer`,
`measure/` and `report/`.

Every function takes the parsed arguments (`__main__.py` names and explains them), prints, and
writes the file that was asked for. Errors are the package's own, which `__main__` turns into one
sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from clippo_core.errors import ConfigError, DataError
from clippo_core.storage import local
from clippo_core.untrusted.json import at, load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.text import read_lines


def embed(chosen: argparse.Namespace) -> None:
    """Embeddings of texts and images into an .npz."""
    import numpy as np

    if chosen.texts is None and not chosen.images:
        raise ConfigError("there is nothing to embed; give --texts FILE (or -) or --images FILE…")
    model = _load(chosen)
    arrays: dict[str, Any] = {}
    if chosen.texts is not None:
        texts = _lines(chosen.texts)
        arrays |= {
            "texts": model.embed_texts(texts, batch_size=chosen.batch_size),
            "text_names": np.array(texts),
        }
    if chosen.images:
        images = model.embed_images(
            chosen.images, preprocess=chosen.preprocess, batch_size=chosen.batch_size
        )
        arrays |= {"images": images, "image_names": np.array(chosen.images)}
    np.savez(chosen.out, **arrays)
    sizes = ", ".join(
        f"{len(arrays[what])} {what}" for what in ("texts", "images") if what in arrays
    )
    print(f"{chosen.out}: {sizes}, {model.tower.config.embed_dim} numbers each")


def classify(chosen: argparse.Namespace) -> None:
    """The likeliest names of each image, one line each."""
    names = [*chosen.names, *(_lines(chosen.names_file) if chosen.names_file else [])]
    model = _load(chosen)
    shares = model.classify(chosen.image, names, chosen.template or ["{}"])
    for image, row in zip(chosen.image, shares, strict=True):
        best = row.argsort()[::-1][: chosen.top]
        if chosen.json:
            print(
                json.dumps(
                    {"image": image, "classes": {names[i]: round(float(row[i]), 6) for i in best}},
                    ensure_ascii=False,
                )
            )
        else:
            print(f"{image}\t" + "\t".join(f"{names[i]} {100 * row[i]:.1f} %" for i in best))


def render(chosen: argparse.Namespace) -> None:
    """Pages as a picture, or a census of texts: line by line, or language by language."""
    from clippo_core.rendering import Renderer
    from clippo_core.rendering.census import by_language, table

    lines = _lines(chosen.file) if chosen.file else []
    languages: list[str] = []
    if chosen.tagged:
        if chosen.text or not chosen.file:
            raise ConfigError(
                "--tagged is about the lines of --file; texts among the arguments have no language."
            )
        languages, lines = _tagged(chosen.file, lines, "a language")
    texts = [*chosen.text, *lines]
    if not texts:
        raise ConfigError("there is nothing to draw; give texts, or --file FILE (or -).")
    renderer = Renderer(chosen.image_px, chosen.font or None, chosen.layout, chosen.monospace)
    if chosen.census and chosen.tagged:
        print(table(by_language(renderer.census(texts), languages)))
    elif chosen.census:
        census = renderer.census(texts)
        print("rows\tcut\tmissing\ttext")
        for text, rows, cut, missing in zip(
            texts, census.rows, census.cut_glyphs, census.missing_glyphs, strict=True
        ):
            print(f"{rows}\t{cut}\t{missing}\t{text[:80]!r}")
    if chosen.out:
        from PIL import Image

        pages = renderer.render(texts)
        Image.fromarray(pages.reshape(-1, chosen.image_px)).save(chosen.out)
        print(f"{chosen.out}: {len(texts)} pages of {chosen.image_px} px")
    elif not chosen.census:
        raise ConfigError("give --out FILE.png for a picture, or --census for numbers.")


def convert(chosen: argparse.Namespace) -> None:
    """A checkpoint in another form."""
    from clippo_core.config import RenderConfig
    from clippo_core.embedder import Clippo
    from clippo_core.models import load_image_only, save_big_vision

    if not chosen.target.endswith((".npz", ".safetensors")):
        raise ConfigError(
            f"{chosen.target} ends neither in .npz (for big_vision) nor in .safetensors (one file"
            " for Clippo.load)."
        )
    if chosen.image_only:
        tower = load_image_only(chosen.source, chosen.image_px or 224)
        model = Clippo(tower, RenderConfig(image_px=tower.image_px), device="cpu")
    else:
        model = Clippo.load(chosen.source, "cpu", image_px=chosen.image_px)
    if chosen.target.endswith(".npz"):
        save_big_vision(model.tower, chosen.target)
    else:
        model.save(chosen.target)
    config, count = (
        model.tower.config,
        sum(parameter.numel() for parameter in model.tower.parameters()),
    )
    print(
        f"{chosen.target}: {config.kind}, width {config.width}, depth {config.depth},"
        f" {model.image_px} px, {count:,} parameters"
    )


def gap(chosen: argparse.Namespace) -> None:
    """Modality gap and its companions, as JSON."""
    from dataclasses import asdict

    from clippo_core.measure.geometry import measure

    names, texts = _tagged(chosen.captions, _lines(chosen.captions), "a file name")
    images = [str(Path(chosen.images) / name) for name in names]
    print(json.dumps(asdict(measure(_load(chosen), images, texts)), indent=1))


def patches(chosen: argparse.Namespace) -> None:
    """Principal components of the patch kernel."""
    from clippo_core.measure.geometry import patch_components
    from clippo_core.report.pictures import patch_figure

    kernel = _load(chosen).tower.state_dict()["patch_embed.proj.weight"].cpu().numpy()
    components, shares = patch_components(kernel, chosen.n)
    print(
        f"{len(shares)} components hold {100 * shares.sum():.1f} % of the kernel's variance, the"
        f" first {100 * shares[0]:.1f} %"
    )
    _write_figure(patch_figure(components, shares), chosen.out)


def lengths(chosen: argparse.Namespace) -> None:
    """Patches against tokens, by language."""
    from clippo_core.measure.lengths import lengths_table, measure_lengths
    from clippo_core.rendering import Renderer
    from clippo_core.report.lengths import lengths_figure

    texts = {name: _lines(path) for name, path in _named(chosen.texts, "--texts").items()}
    lengths = measure_lengths(
        texts, _named(chosen.tokenizer, "--tokenizer"), Renderer(chosen.image_px)
    )
    print(lengths_table(lengths))
    _write_figure(lengths_figure(lengths), chosen.out)


def compare(chosen: argparse.Namespace) -> None:
    """Results beside published numbers."""
    from clippo_core.evaluate.results import read_results
    from clippo_core.published import all_published
    from clippo_core.report import compare

    known = sorted({number.model for number in all_published()})
    for name in chosen.beside:
        if name not in known:
            raise ConfigError(f"nothing is published of {name!r}; there are: {'; '.join(known)}.")
    results = read_results(chosen.runs)
    if not results:
        raise ConfigError(
            f"{chosen.runs} holds no result of an evaluation; name the folder of finished runs."
        )
    print(compare.to_markdown(compare.compare(results, beside=chosen.beside)), end="")
    if chosen.out:
        compare.write_comparison(chosen.out, results, beside=chosen.beside)


def released(chosen: argparse.Namespace) -> None:
    """The authors' six checkpoints."""
    from clippo_core.released import RELEASED

    for released in RELEASED.values():
        print(
            f"{released.name}\n    trained on {released.data}, {released.steps:,} steps;"
            f" {released.url}"
        )
        print(
            "    " + ", ".join(f"{number.metric} {number.value:g}" for number in released.results)
        )


def preset(chosen: argparse.Namespace) -> None:
    """A preset as JSON, or their list."""
    from clippo_core import config
    from clippo_core.config import presets

    functions = presets.by_name()
    if not chosen.name:
        for name, function in functions.items():
            print(f"{name:<18}{(function.__doc__ or '').splitlines()[0]}")
        return
    if chosen.name not in functions:
        raise ConfigError(f"there is no preset {chosen.name}; there are {', '.join(functions)}.")
    function = functions[chosen.name]
    settings = {name: _value(text) for name, text in _named(chosen.set, "--set").items()}
    settings |= {
        name: value for name, value in (("data", chosen.data), ("root", chosen.root)) if value
    }
    kinds = get_type_hints(function)
    own = {
        name: _typed(settings.pop(name), kinds[name], f"preset {chosen.name}", name)
        for name in list(settings)
        if name in inspect.signature(function).parameters
    }
    try:
        print(config.to_json(config.replace(function(**own), **settings)))
    except TypeError as error:  # an argument that is missing
        raise ConfigError(f"preset {chosen.name} does not take this: {error}") from error


def tokenizer(chosen: argparse.Namespace) -> None:
    """A SentencePiece model for the token towers, from text files or a run's own sources."""
    from clippo_core import models, storage
    from clippo_core.config import RunConfig

    if bool(chosen.file) == bool(chosen.config):
        raise ConfigError(
            "give text files, or --config RUN.json for the captions and sentences of a run's"
            " sources."
        )
    texts: Iterable[str] = (line for path in chosen.file for line in _lines(path))
    if chosen.config:
        try:
            config = RunConfig.from_json(storage.read_text(chosen.config))
        except ConfigError as error:
            raise ConfigError(f"{chosen.config}: {error}") from error
        texts = models.corpus(config.data)
    models.train_tokenizer(texts, chosen.out, chosen.size)
    print(f"{chosen.out}: {models.load_tokenizer(chosen.out).get_piece_size():,} pieces")


def _value(text: str) -> Any:
    """A setting's value: JSON where it is some, else the words themselves."""
    try:
        return load_json(text, "--set", max_bytes=LIMITS.json_header_bytes)
    except DataError:
        return text


def _typed(value: Any, kind: type, where: str, name: str) -> Any:
    """An argument of a preset as its hint wants it; a folder may well be called 2024."""
    value = str(value) if kind is str and isinstance(value, (int, float)) else value
    return at(value, kind, where, name, error=ConfigError)


def _load(chosen: argparse.Namespace) -> Any:
    from clippo_core.embedder import Clippo

    return Clippo.load(chosen.model, chosen.device, fonts=chosen.font, precision=chosen.precision)


def _lines(path: str) -> list[str]:
    """Lines of a file, or of standard input: ended by newlines alone, because a text may hold any
    other separator of Unicode.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(local.explained(path, "read"))
        file = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        lines = list(read_lines(file, path))
    bad = next((line for line in lines if line.problem), None)
    if bad:
        raise refusal(ConfigError, path, bad.problem, "convert it to UTF-8 text first")
    return [line.text for line in lines]


def _tagged(path: str, lines: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """(tags, texts) of lines "tag, tab, text"; further tabs belong to the text. what: of a tag."""
    pairs = [line.split("\t", 1) for line in lines]
    bad = next((number for number, pair in enumerate(pairs, 1) if len(pair) != 2), None)
    if bad:
        raise ConfigError(f"{path}, line {bad}: expected {what}, a tab and a text.")
    return [tag for tag, _ in pairs], [text for _, text in pairs]


def _named(pairs: Sequence[str], option: str) -> dict[str, str]:
    bad = next((pair for pair in pairs if "=" not in pair), None)
    if bad is not None:
        raise ConfigError(f"{option} {bad}: expected NAME=FILE.")
    return dict(pair.split("=", 1) for pair in pairs)


def _write_figure(figure: Any, path: str | None) -> None:
    if path:
        page = (
            f"<!doctype html><meta charset=utf-8><title>{figure.title}</title>"
            f"<h1>{figure.title}</h1>{figure.svg}<p>{figure.caption}</p>"
        )
        Path(path).write_text(page, encoding="utf-8")
        print(path)
