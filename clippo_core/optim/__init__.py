"""Optimizers and the learning-rate schedule of the reference, exact also where ZeRO leaves a rank
only a flat shard.
"""

from clippo_core.optim.adafactor import Adafactor
from clippo_core.optim.adamw import AdamW
from clippo_core.optim.schedule import rsqrt_schedule
from clippo_core.optim.sharded import Fragment, ShardedOptimizer

__all__ = ["Adafactor", "AdamW", "Fragment", "ShardedOptimizer", "rsqrt_schedule"]
