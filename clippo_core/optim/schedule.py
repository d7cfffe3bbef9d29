"""The learning-rate schedule: reciprocal square root, with a linear warm-up before it and a linear
cooldown at the end.

    multiplier(s) = 1 / sqrt(1 + max(s - warmup, 0) / timescale)
                    * min(1, s / warmup) * min(1, (total - s) / cooldown)

A multiplier of whole update steps, weight decay included; not a learning rate. Source: big_vision
utils.create_learning_rate_schedule, decay_type "rsqrt".
"""

from __future__ import annotations

import math

from clippo_core.errors import ConfigError


def rsqrt_schedule(
    step: int, total_steps: int, warmup_steps: int, timescale: int, cooldown_steps: int
) -> float:
    """Multiplier in 0..1 of the update at `step` (the first is 0), all arguments in steps. Raises
    ConfigError for impossible ones.
    """
    if timescale <= 0 or total_steps <= 0 or min(step, warmup_steps, cooldown_steps) < 0:
        raise ConfigError(
            f"rsqrt_schedule(step={step}, total_steps={total_steps}, warmup_steps={warmup_steps},"
            f" timescale={timescale}, cooldown_steps={cooldown_steps}): total_steps and timescale"
            " must be positive, the others not negative."
        )
    multiplier = 1 / math.sqrt(1 + max(step - warmup_steps, 0) / timescale)
    if warmup_steps:
        multiplier *= min(1.0, step / warmup_steps)
    if cooldown_steps:
        multiplier *= min(1.0, max(total_steps - step, 0) / cooldown_steps)
    return multiplier
