"""Text -> sentences, by a small rule that anybody can run on paper.

    A line end ends a sentence. Within a line, one of . ! ? … (and closing quotes or brackets after
    it) ends a sentence if white space and then a capital, a digit or an opening quote follow;
    。！？ end one by themselves. Not after a known abbreviation (Mr. Dr. e.g. ...), a lone capital
    (J. Smith), or where the next word starts in lower case.

The paper does not say how it split C4; for English and similar web text this rule is close enough.
"""

from __future__ import annotations

import re

_SHORT_FORMS = """
mr mrs ms dr prof sr jr st mt no vs etc inc ltd co corp gen col lt sgt capt rev hon rep sen gov
fig vol pp p ed eds est dept univ approx al e.g i.e a.m p.m u.s u.k jan feb mar apr jun jul aug
sep sept oct nov dec
"""
_ABBREVIATIONS = frozenset(_SHORT_FORMS.split())
_END = re.compile(
    r"""(?<![.!?…])(?P<stop>[.!?…]+)["'”’»)\]]*\s+(?=["'“‘«(\[]*[^\W_a-zß-öø-ÿ])|(?<=[。！？])(?=[^。！？”’」』）\s])"""
)


def split_sentences(text: str) -> list[str]:
    """Sentences of `text` in order, stripped, none empty."""
    sentences: list[str] = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            end = match.start()  # looking back further would cost a line of "Mr. Mr. ..." hours
            if match["stop"] == "." and _is_abbreviation(line[max(start, end - 1000) : end]):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(before: str) -> bool:
    """Whether the stop after `before` belongs to its last word."""
    if not before or before[-1].isspace():
        return False
    bare = before.rsplit(None, 1)[-1].lstrip("\"'“‘«([")
    return bare.lower() in _ABBREVIATIONS or (
        len(bare) == 1 and bare.isalpha() and bare.isupper() and bare != "I"
    )
