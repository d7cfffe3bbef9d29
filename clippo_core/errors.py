"""The tree of expected failures: each is raised with a sentence that names the thing, what is wrong
and what to do.

    ClippoError
    ├── ConfigError        a setting, or two settings together, cannot work      (also a ValueError)
    ├── DataError          a source, shard, image or annotation file is not usable
    │   ├── ImageError     one picture: corrupt, empty, truncated, too large, of an unknown mode
    │   └── ShardError     a shard or its manifest: missing, cut, sha256 differs
    ├── RenderError        a text that is no `str`, a font that cannot be read   (also a TypeError)
    ├── StorageError       a file or an object could not be read or written
    │   ├── NotFoundError  it does not exist, or may not be read                    (never retried)
    │   └── ConflictError  a conditional write was lost: somebody else wrote first  (never retried)
    ├── CheckpointError    cut, of another tower, sha256 differs
    ├── TrainingError      a run that must stop: non-finite losses
    │   └── LostRankError  a rank was lost; the same command goes on from the last checkpoint
    ├── EvaluationError    a protocol that cannot be applied: wrong split size, NaN scores, leaks
    └── Preempted          SIGTERM was received, a checkpoint is committed; start again to go on

Programming errors stay AssertionError, TypeError, ValueError.
"""

from __future__ import annotations


class ClippoError(Exception):
    """Base of every failure that a user can act upon."""


class ConfigError(ClippoError, ValueError):
    """A setting cannot work, alone or with another."""


class DataError(ClippoError):
    """A data source, annotation file or record is not usable."""


class ImageError(DataError):
    """One picture cannot be used."""


class ShardError(DataError):
    """A shard or its manifest is missing, cut, or differs from its sha256."""


class RenderError(ClippoError, TypeError):
    """A text or a font cannot be rendered."""


class StorageError(ClippoError):
    """A file or an object could not be read or written."""


class NotFoundError(StorageError):
    """The file or object does not exist, or may not be read; trying again would not help."""


class TooLargeError(StorageError):
    """A file has more bytes than its reader takes."""


class ConflictError(StorageError):
    """A conditional write was lost to another writer."""


class CheckpointError(ClippoError):
    """A checkpoint is incomplete, damaged, or of another tower."""


class TrainingError(ClippoError):
    """A training run must stop."""


class LostRankError(TrainingError):
    """A rank of a training run was lost, or could not say that it goes on."""


class EvaluationError(ClippoError):
    """A protocol cannot be applied to this data or these scores."""


class Preempted(ClippoError):
    """The process was asked to stop, and has committed a checkpoint; the same command goes on from
    it.
    """

    EXIT_CODE = 143
    """128 + SIGTERM: the exit code with which a preempted training process ends."""
