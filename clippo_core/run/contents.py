"""What a run reads, as digests: new data under an old path is another run.

content_digest(source_inputs(data))      of the pairs, by names, sizes and contents
benchmark_digest(evaluate, "glue")       of an evaluation's files
"""

from __future__ import annotations

from typing import Any

from clippo_core.config import DataConfig, EvaluateConfig, digest
from clippo_core.data.partitions import Listed
from clippo_core.data.partitions import listed as listed_files
from clippo_core.errors import DataError
from clippo_core.evaluate.registry import EVALUATIONS, Input


def source_inputs(data: DataConfig) -> list[Input]:
    """Files and folders that the sources read; a dataset on a hub has its revision instead."""
    found = []
    for source in data.sources:
        found += [source.second_path, source.images]
        found += [] if source.on_hub else [source.path]
        if source.kind == "csv" and not source.images:
            found += [source.path.rpartition("/")[0] or "."]
    return [Input(uri) for uri in found if uri]


def content_digest(inputs: list[Input], listed: Listed = listed_files) -> str:
    """sha256 over names, sizes and contents (a bucket's etags, a folder's sha256) of files, folders
    and `*` patterns.

    Raises DataError naming the first that does not exist and is not optional.
    """
    entries: list[list[Any]] = []
    for uri, is_optional in sorted(set(inputs)):
        files = listed(uri)
        if not files and not is_optional:
            raise DataError(
                f"{uri}: not found, or an empty folder; check the path in the run's config."
            )
        entries.append([uri, files])
    return digest(entries)


def benchmark_digest(evaluate: EvaluateConfig, name: str, listed: Listed = listed_files) -> str:
    """Digest of what the evaluation `name` reads. A missing file stops neither plan nor training:
    that evaluation's result will say so.
    """
    try:
        return content_digest(EVALUATIONS[name].inputs(evaluate), listed)
    except DataError as error:
        return f"missing: {error}"
