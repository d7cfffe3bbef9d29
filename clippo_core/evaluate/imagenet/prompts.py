"""Prompts of zero-shot classification: CLIP's templates, class names, and their canonical form.

    "a close-up photo of a {}." + "Crane (bird)"
    ─ canonical ─▶ "a closeup photo of a {}" + "crane bird"

The 80 templates are those of CLIP (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb;
Copyright (c) 2021 OpenAI, MIT licence); the paper's system adds the bare name (81, `clip_paper`),
and `clip_best` is CLIP's choice of seven and the bare name (big_vision
evaluators/proj/image_text/prompt_engineering.py). It embeds nothing.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from clippo_core.data.sources.annotation_files import load_json
from clippo_core.errors import ConfigError, EvaluationError
from clippo_core.untrusted.json import at
from clippo_core.untrusted.names import printable, refusal

_CLIP = """
a bad photo of a {}. | a photo of many {}. | a sculpture of a {}. | a photo of the hard to see {}. |
a low resolution photo of the {}. | a rendering of a {}. | graffiti of a {}. |
a bad photo of the {}. | a cropped photo of the {}. | a tattoo of a {}. | the embroidered {}. |
a photo of a hard to see {}. | a bright photo of a {}. | a photo of a clean {}. |
a photo of a dirty {}. | a dark photo of the {}. | a drawing of a {}. | a photo of my {}. |
the plastic {}. | a photo of the cool {}. | a close-up photo of a {}. |
a black and white photo of the {}. | a painting of the {}. | a painting of a {}. |
a pixelated photo of the {}. | a sculpture of the {}. | a bright photo of the {}. |
a cropped photo of a {}. | a plastic {}. | a photo of the dirty {}. |
a jpeg corrupted photo of a {}. | a blurry photo of the {}. | a photo of the {}. |
a good photo of the {}. | a rendering of the {}. | a {} in a video game. | a photo of one {}. |
a doodle of a {}. | a close-up photo of the {}. | a photo of a {}. | the origami {}. |
the {} in a video game. | a sketch of a {}. | a doodle of the {}. | a origami {}. |
a low resolution photo of a {}. | the toy {}. | a rendition of the {}. | a photo of the clean {}. |
a photo of a large {}. | a rendition of a {}. | a photo of a nice {}. | a photo of a weird {}. |
a blurry photo of a {}. | a cartoon {}. | art of a {}. | a sketch of the {}. | a embroidered {}. |
a pixelated photo of a {}. | itap of the {}. | a jpeg corrupted photo of the {}. |
a good photo of a {}. | a plushie {}. | a photo of the nice {}. | a photo of the small {}. |
a photo of the weird {}. | the cartoon {}. | art of the {}. | a drawing of the {}. |
a photo of the large {}. | a black and white photo of a {}. | the plushie {}. |
a dark photo of a {}. | itap of a {}. | graffiti of the {}. | a toy {}. | itap of my {}. |
a photo of a cool {}. | a photo of a small {}. | a tattoo of the {}.
"""

CLIP: tuple[str, ...] = tuple(
    line.strip() for line in _CLIP.replace("\n", "|").split("|") if line.strip()
)
"""CLIP's 80 templates, in its order."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "clip_paper": (*CLIP, "{}"),
    "clip": CLIP,
    "clip_best": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
        "{}",
    ),
    "name": ("{}",),
}
"""The template sets by name."""


def load_templates(name: str) -> tuple[str, ...]:
    """Canonical templates of a set in TEMPLATES, or of a JSON list (path or s3://) of strings with
    one `{}` (or `{c}`) each.
    """
    templates: Sequence[str] | None = TEMPLATES.get(name)
    if templates is None:
        if not name.endswith(".json"):
            raise ConfigError(
                f"templates {name!r} are unknown; use {', '.join(TEMPLATES)} or the path of a .json"
                " list."
            )
        loaded = at(load_json(name), list[str], name, "template", error=EvaluationError)
        if not loaded:
            raise refusal(EvaluationError, name, "it is an empty list", "list some templates")
        templates = [item.replace("{c}", "{}") for item in loaded]
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong:
        fault = f"template {printable(wrong[0], 60)!r} needs exactly one {{}} for the class name"
        raise refusal(EvaluationError, name, fault, "correct it")
    return tuple(canonical(template, keep="{}") for template in templates)


def canonical(text: str, keep: str = "") -> str:
    """Lower case, `_` as space, no ASCII punctuation but the exact string `keep`, single spaces
    (big_vision's `_canonicalize`).
    """
    parts = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    bare = keep.join(part.translate(_NO_PUNCTUATION) for part in parts)
    return re.sub(r"\s+", " ", bare.lower()).strip()


def canonical_name(name: str) -> str:
    """Canonical form of a class name: of several aliases, divided by commas, the first."""
    return canonical(name, keep=",").split(",")[0].strip()


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
