"""A run is a value: frozen dataclasses, one per stage, each field with its unit and its range.

    RunConfig ── render   how text becomes pixels                              data.py
              ├─ data     where the pairs come from, and in which shares       data.py
              ├─ model    which tower                                          model.py
              ├─ optim    optimizer and learning-rate schedule                 train.py
              ├─ train    steps, batch, precision, memory, checkpoints         train.py
              ├─ evaluate the five evaluations                                 evaluate.py
              └─ gate     what a promoted model has to hold                    gate.py

A preset (`presets.py`) returns a complete RunConfig; a variant is `replace`. A value that cannot
work is refused with a sentence wherever it comes from (`check.py`). Nodes, GPUs and memory of the
cluster stand in `tasks/settings.py`. Nothing here reads a file or an environment variable.
"""

from clippo_core.config.check import Checked, decode, parse_json, replace, require, to_json
from clippo_core.config.data import DataConfig, RenderConfig, SourceConfig
from clippo_core.config.evaluate import (
    XM3600_LANGUAGES,
    EvaluateConfig,
    GlueConfig,
    ImagenetConfig,
    RetrievalConfig,
    VqaConfig,
    Xm3600Config,
)
from clippo_core.config.gate import GateConfig
from clippo_core.config.identity import digest, identity
from clippo_core.config.model import ModelConfig
from clippo_core.config.run import RunConfig
from clippo_core.config.train import AugmentConfig, FinetuneConfig, OptimConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "Checked",
    "DataConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "GateConfig",
    "GlueConfig",
    "ImagenetConfig",
    "ModelConfig",
    "OptimConfig",
    "RenderConfig",
    "RetrievalConfig",
    "RunConfig",
    "SourceConfig",
    "TrainConfig",
    "VqaConfig",
    "XM3600_LANGUAGES",
    "Xm3600Config",
    "decode",
    "digest",
    "identity",
    "parse_json",
    "replace",
    "require",
    "to_json",
]
