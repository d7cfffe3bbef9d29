"""Crossmodal-3600: retrieval in each of 36 languages on its own, and the unweighted mean over the
languages.

    per language   3,600 images x that language's captions, recall@1, 5, 10 both ways
                   (`ranking.py`); images are embedded once
    mean           (1 / languages) sum of the languages' recalls;
                   a mean over captions would weigh languages by their number

All captions of an image count, any of which is a hit; or only the first (`which_captions`), as some
tools do: the two are not comparable, and the protocol says which it was. Never one gallery over all
languages. Data: Thapliyal et al. 2022, captions.jsonl.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from clippo_core.config import XM3600_LANGUAGES, Xm3600Config
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.scripts import SCRIPTS
from clippo_core.data.sources.photos import xm3600_records
from clippo_core.errors import EvaluationError
from clippo_core.evaluate.gallery import add_scores, examples, record_pictures, usable
from clippo_core.evaluate.harness import Session, evaluate
from clippo_core.evaluate.ranking import Ranking, chance_recall, retrieval_ranks
from clippo_core.run.records import EvalResult, EvaluatePlan

DIRECTIONS = ("i2t", "t2i")
KS = (1, 5, 10)
EXAMPLES = 6
"""Hits, and as many misses, that are shown."""


class _Scored(NamedTuple):
    """One language."""

    hits: dict[str, np.ndarray]
    """`i2t@1` -> float64 [images of the benchmark]: the image's part in the language's recall; the
    mean over images is the recall."""
    chance: dict[str, float]
    n_queries: dict[str, int]
    tie_share: dict[str, float]


def run(checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
    """Evaluate `checkpoint` as plan.evaluate.xm3600 says, and write the result below
    plan.stage.root; a finished one is returned.

    Metrics: i2t_recall@1|5|10 and t2i_recall@1|5|10 (means over languages),
    <language>/i2t_recall@1, <language>/t2i_recall@1, script/<Script>/i2t_recall@1 (mean over a
    script's languages). Data and protocol errors become a result with its `failure`.
    """
    return evaluate("xm3600", checkpoint, plan, progress, _evaluate)


def _evaluate(session: Session) -> None:
    config: Xm3600Config = session.config
    found = [
        record
        for record in xm3600_records(config.captions, config.images, config.languages)
        if record.texts or record.problem
    ]
    records = usable(found, config.captions, config.limit)
    session.check_size(len(records), config.captions, limited=bool(config.limit))
    with session.timed("images"):
        images = session.store.pictures(record_pictures(records)).features
    scored: dict[str, _Scored] = {}
    for language in config.languages:
        spoken = [_only(record, language, config.which_captions == "first") for record in records]
        if any(record.texts for record in spoken):
            scored[language] = _language(session, language, spoken, images)
        else:
            for direction in DIRECTIONS:
                why = f"{config.captions} has no caption in {language!r}"
                session.not_run(f"{language}/{direction}_recall@1", why)
    if not scored:
        raise EvaluationError(
            f"{config.captions} has no caption in any of {', '.join(config.languages)}."
        )
    _describe(session, records, scored)
    _means(session, scored)
    session.examples.sort(key=lambda example: not example["hit"])


def _only(record: PhotoRecord, language: str, first: bool) -> PhotoRecord:
    """The record with its captions in one language, or with the first of them."""
    texts = tuple(
        text for text, code in zip(record.texts, record.languages, strict=True) if code == language
    )
    texts = texts[:1] if first else texts
    return dataclasses.replace(record, texts=texts, languages=(language,) * len(texts))


def _language(
    session: Session, language: str, spoken: list[PhotoRecord], images: np.ndarray
) -> _Scored:
    """Rank one language's captions against the images that have one, and note its recalls."""
    kept = np.array([i for i, record in enumerate(spoken) if record.texts])
    records = [spoken[i] for i in kept]
    texts = [text for record in records for text in record.texts]
    n_texts = np.array([len(record.texts) for record in records])
    image_of_text = np.repeat(np.arange(len(records)), n_texts)
    with session.timed("texts"):
        text_features = session.store.texts(texts, f"texts in {language}")
    with session.timed("scoring"):
        forward, backward = retrieval_ranks(images[kept], text_features, image_of_text)

    scored = _Scored(
        {},
        {},
        {"i2t": len(records), "t2i": len(texts)},
        {"i2t": forward.tie_share, "t2i": backward.tie_share},
    )
    for k in KS:
        for direction, ranking, owner in (
            ("i2t", forward, np.arange(len(records))),
            ("t2i", backward, image_of_text),
        ):
            shares = np.bincount(owner, weights=ranking.ranks <= k, minlength=len(records)) / len(
                ranking.ranks
            )
            scored.hits[f"{direction}@{k}"] = np.zeros(len(spoken))
            scored.hits[f"{direction}@{k}"][kept] = 100.0 * shares * len(spoken)
        scored.chance[f"i2t@{k}"] = 100.0 * chance_recall(len(texts), n_texts, k)
        scored.chance[f"t2i@{k}"] = 100.0 * chance_recall(len(records), [1], k)
    for direction in DIRECTIONS:
        name = f"{language}/{direction}_recall@1"
        session.score(
            name,
            scored.hits[f"{direction}@1"],
            chance=scored.chance[f"{direction}@1"],
            n=scored.n_queries[direction],
        )
        if len(records) < len(spoken):
            session.flag(
                name, f"{len(records):,} of {len(spoken):,} images have a caption in this language"
            )
    _remember(session, language, records, image_of_text, texts, forward, backward)
    return scored


def _remember(
    session: Session,
    language: str,
    records: list[PhotoRecord],
    image_of_text: np.ndarray,
    texts: list[str],
    forward: Ranking,
    backward: Ranking,
) -> None:
    """Per-example scores, and one hit and one miss per language until there are six of each."""
    add_scores(session, records, forward, backward, prefix=f"{language}/")
    for hit in (True, False):
        if sum(example["hit"] == hit for example in session.examples) < EXAMPLES:
            drawn = examples(
                session.plan.stage.seed, records, image_of_text, texts, forward, backward, each=1
            )
            for example in [example for example in drawn if example["hit"] == hit][:1]:
                session.examples.append({**example, "asked": f"({language}) {example['asked']}"})


def _describe(session: Session, records: list[PhotoRecord], scored: dict[str, _Scored]) -> None:
    config: Xm3600Config = session.config
    which = (
        "with all captions: any of an image's own is a hit"
        if config.which_captions == "all"
        else "with only the first caption of each image"
    )
    session.protocol = (
        f"Each language is ranked alone, {which}. The result is the unweighted mean over"
        f" {len(scored)} of {len(XM3600_LANGUAGES)} languages. Equal scores rank the right item"
        f" last. Pictures are squashed to {session.model.image_px} px."
    )
    session.n_examples = len(records)
    session.main_metrics = ["i2t_recall@1", "t2i_recall@1"]
    session.is_partial |= set(scored) != set(XM3600_LANGUAGES)
    session.count(
        images=len(records),
        languages=len(scored),
        texts=sum(language.n_queries["t2i"] for language in scored.values()),
    )


def _means(session: Session, scored: dict[str, _Scored]) -> None:
    """Unweighted means over all languages and over those of one script; intervals over images,
    which all languages share.
    """
    for direction in DIRECTIONS:
        for k in KS:
            _mean(session, f"{direction}_recall@{k}", f"{direction}@{k}", list(scored.values()))
        ties = [language.tie_share[direction] for language in scored.values()]
        n = sum(language.n_queries[direction] for language in scored.values())
        session.put(f"{direction}_tie_share", 100.0 * float(np.mean(ties)), n=n)
        if any(ties):
            words = f"{100 * np.mean(ties):.2f} % of the queries tie; ties rank last"
            session.flag(f"{direction}_recall@1", words)
        scripts = {language: SCRIPTS.get(language, "Latin") for language in scored}
        for script in sorted(set(scripts.values())):
            of_script = [scored[language] for language in scored if scripts[language] == script]
            _mean(session, f"script/{script}/{direction}_recall@1", f"{direction}@1", of_script)


def _mean(session: Session, metric: str, key: str, languages: list[_Scored]) -> None:
    values: np.ndarray = np.mean([language.hits[key] for language in languages], axis=0)
    chance = float(np.mean([language.chance[key] for language in languages]))
    n = sum(language.n_queries[key.partition("@")[0]] for language in languages)
    session.score(metric, values, chance=chance, n=n)
