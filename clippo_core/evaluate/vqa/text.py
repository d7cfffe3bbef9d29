"""VQAv2's official accuracy of one answer, with the official evaluator's normalisation of texts,
quirks included.

    accuracy = mean over the ten 9-subsets of the human answers of min(matches / 3, 1)
             = 0, .3, .6, .9, 1 for 0, 1, 2, 3, >= 4 matches

Answers are normalised only where the ten are not all the same string: against ten times "Yes", the
answer "yes" scores 0. That, and every other quirk below, is what the official scores contain
(GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, BSD-2-Clause; the table of
contractions holds its facts in another form).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from clippo_core.errors import EvaluationError

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Characters that are deleted or become a space; the period has a rule of its own."""

_NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}
ARTICLES = ("a", "an", "the")

_CONTRACTED = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've
should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTED.split()
    for i, c in enumerate(word)
    if c == "'"
}
"""A contraction with one of its apostrophes left out -> as it is written."""
CONTRACTIONS["somebody'd"] = "somebodyd"

_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""The evaluator hands `re.UNICODE` (32) to `sub` as its count."""


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """Official accuracy, 0..1, of `answer` against the (ten) human answers. Raises EvaluationError
    where there are none.
    """
    if not human_answers:
        raise EvaluationError(
            "a question has no human answers; it can't be scored. Take an annotated split."
        )
    humans = [strip(human) for human in human_answers]
    said = strip(answer)
    if len(set(humans)) > 1:
        humans = [normalise(human) for human in humans]
        said = normalise(said)
    matches = sum(human == said for human in humans)
    shares = [min(1.0, (matches - (human == said)) / 3) for human in humans]
    return sum(shares) / len(shares)


def strip(text: str) -> str:
    """`text` on one line, without white space at its ends: all that is done to unanimous
    answers.
    """
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise(text: str) -> str:
    """The official normal form of an answer: punctuation, case, number words, articles,
    contractions.
    """
    words = [NUMBERS.get(word, word) for word in _without_punctuation(strip(text)).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark goes if it touches a space anywhere in the text, or if the text has a comma between
    digits; else it becomes a space.
    """
    everywhere = _THOUSANDS.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        cleaned = cleaned.replace(
            mark, "" if everywhere or f"{mark} " in text or f" {mark}" in text else " "
        )
    return _PERIOD.sub("", cleaned, count=_MOST_PERIODS)
