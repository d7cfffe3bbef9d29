"""The paper's tables, as the report reads them: published values by metric, each with model, data, source and trust.

The numbers are data (`assets/published.json`, read by `clippo_core.published`); this is the name under which pages ask for them.
"""

from __future__ import annotations

from clippo_core.published import Published, all_published, published, published_of

__all__ = ["Published", "all_published", "published", "published_of"]
