"""Questions about pictures of numbers, and eight tasks about their names in GLUE's own file
layouts.

    SST-2   is the number even?                       "forty-two" -> 1
    CoLA    is the name well formed?                  "forty-two" -> 1, "two-forty" -> 0
    RTE     is the first number the larger one?       "sixty" | "achtzehn" -> entailment
    MNLI    larger, about equal, or smaller?          by 25 or more / within 10;
                                                      matched: en ja digits; mismatched: de ar
    QNLI    does the sentence answer yes?             "over 50?" | "ninety" -> entailment
    MRPC    same ten (smaller number first)?          "41" | "forty-eight" -> 1; others: 30 or more
    QQP     at most 9 apart (smaller first)?          otherwise 40 or more apart
    STS-B   closeness (smaller first):                5 * (1 - difference / 99)

Every answer is true. Dev rows use 24 numbers of which no training row of any task has one (16 of
them were in pretraining, 8 never), so a score above the majority is not remembered. "Smaller first"
makes closeness a difference, which small towers can learn; whether two names mean the *same* number
did not carry over to unseen numbers in trials, so no task asks for it. It draws no picture and
reads no file.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np

from clippo_core.extras import optional_import

NUMBERS = range(100)
UNSEEN = (23, 37, 46, 54, 68, 72, 81, 95)
"""Numbers that stand in no training picture and in no training sentence."""
DEV_NUMBERS = (*UNSEEN, 26, 28, 31, 35, 42, 49, 52, 57, 61, 64, 74, 79, 83, 86, 93, 98)
"""Numbers of the tasks' dev rows; half of them even."""
TRAIN_NUMBERS = tuple(number for number in NUMBERS if number not in DEV_NUMBERS)
FORMS = ("en", "de", "ja", "ar", "digits")
PAIR_CHARACTERS = 26
"""Two texts of so many characters together, and " [SEP] " between them, fit on a page of 64 px in
any of the languages."""
TRAIN_ROWS, DEV_ROWS = 600, 240
FRAMES = (
    "{}",
    "the number {}",
    "it is {}",
    "{} points",
    "number {}",
    "page {}",
    "about {}",
    "{} apples",
    "at {}",
    "no {}",
)


@functools.cache
def name(number: int, language: str) -> str:
    """A number's name, as num2words spells it; `digits` gives the digits."""
    if language == "digits":
        return str(number)
    with optional_import():
        from num2words import num2words

    return str(num2words(number, lang=language)).strip()


def questions(number: int) -> list[tuple[str, str, str, str]]:
    """(question, answer, question type, answer type) about a picture of `number`; of one digit, it
    is left and right at once.
    """
    return [
        ("Is it even?", "yes" if number % 2 == 0 else "no", "is it", "yes/no"),
        ("Is it over 50?", "yes" if number > 50 else "no", "is it", "yes/no"),
        ("Left digit?", str(number)[0], "none of the above", "number"),
        ("Right digit?", str(number)[-1], "none of the above", "number"),
    ]


def glue_files(seed: int) -> dict[str, str]:
    """Path below the GLUE folder -> content, for all eight tasks."""
    files: dict[str, str] = {}
    for split, numbers, count in (
        ("train", TRAIN_NUMBERS, TRAIN_ROWS),
        ("dev", DEV_NUMBERS, DEV_ROWS),
    ):
        for number, (task, write) in enumerate(_TASKS.items()):
            rng = np.random.default_rng([seed, number, split == "dev"])
            if task != "MNLI":
                files[f"{task}/{split}.tsv"] = write(rng, numbers, count)
        rng = np.random.default_rng([seed, 100, split == "dev"])
        if split == "train":
            files["MNLI/train.tsv"] = _mnli(
                rng,
                numbers,
                count,
                (("en", "en"), ("ja", "ja"), ("digits", "digits")),
                annotators=1,
            )
        else:
            files["MNLI/dev_matched.tsv"] = _mnli(
                rng,
                numbers,
                count,
                (("en", "en"), ("ja", "ja"), ("digits", "digits")),
                annotators=5,
            )
            files["MNLI/dev_mismatched.tsv"] = _mnli(
                rng, numbers, count, (("de", "ja"), ("ja", "ar")), annotators=5
            )
    return files


def scrambled(number: int) -> str:
    """An English name with its two parts exchanged: forty-two -> two-forty."""
    tens, _, units = name(number, "en").partition("-")
    return f"{units}-{tens}"


Task = Callable[[np.random.Generator, tuple[int, ...], int], str]


def _table(header: str, rows: list[list[str]]) -> str:
    return "\n".join([*([header] if header else []), *("\t".join(row) for row in rows)]) + "\n"


def _balanced(
    rng: np.random.Generator, by_label: list[list[list[str]]], count: int
) -> list[list[str]]:
    """`count` different rows, of each label as many as possible alike, shuffled."""
    by_label = [[list(row) for row in dict.fromkeys(map(tuple, rows))] for rows in by_label]
    each = min(count // len(by_label), *(len(rows) for rows in by_label))
    rows = [rows[place] for rows in by_label for place in rng.permutation(len(rows))[:each]]
    return [rows[place] for place in rng.permutation(len(rows))]


def _sst2(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    rows: list[list[list[str]]] = [[], []]
    for number in numbers:
        texts = [name(number, form) for form in FORMS[1:]] + [
            frame.format(name(number, "en")) for frame in FRAMES
        ]
        even = int(number % 2 == 0)
        rows[even] += [[text, str(even)] for text in texts]
    return _table("sentence\tlabel", _balanced(rng, rows, count))


def _cola(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    compound = [number for number in numbers if number > 20 and number % 10]
    good = [
        ["nb01", "1", "", frame.format(name(number, "en"))]
        for number in compound
        for frame in FRAMES
    ]
    bad = [
        ["nb01", "0", "*", frame.format(scrambled(number))]
        for number in compound
        for frame in FRAMES
    ]
    return _table("", _balanced(rng, [bad, good], count))


def _pairs(
    rng: np.random.Generator, numbers: tuple[int, ...], ordered: bool
) -> list[tuple[int, int, str, str]]:
    """All pairs of two numbers (smaller first where `ordered`), shuffled, each in a random form of
    either.

    Where two names do not fit on the page, the second is in digits.
    """
    pairs = [(a, b) for a in numbers for b in numbers if (a < b if ordered else a != b)]
    pairs = [pairs[place] for place in rng.permutation(len(pairs))]
    forms = rng.integers(0, len(FORMS), (len(pairs), 2))
    chosen = [(FORMS[one], FORMS[two]) for one, two in forms.tolist()]
    named = [
        (a, b, name(a, one), name(b, two)) for (a, b), (one, two) in zip(pairs, chosen, strict=True)
    ]
    return [
        (a, b, one, two if len(one + two) <= PAIR_CHARACTERS else str(b))
        for a, b, one, two in named
    ]


def _rte(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    rows: list[list[list[str]]] = [[], []]
    for a, b, one, two in _pairs(rng, numbers, ordered=False):
        rows[int(a > b)].append([one, two, "entailment" if a > b else "not_entailment"])
    chosen = _balanced(rng, rows, count)
    return _table(
        "index\tsentence1\tsentence2\tlabel", [[str(n), *row] for n, row in enumerate(chosen)]
    )


def _qnli(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    rows: list[list[list[str]]] = [[], []]
    for number in numbers:
        for frame, form in [(frame, "en") for frame in FRAMES] + [
            ("{}", form) for form in FORMS[1:]
        ]:
            sentence = frame.format(name(number, form))
            if len("over 50?" + sentence) <= PAIR_CHARACTERS:
                rows[int(number > 50)].append(
                    ["over 50?", sentence, "entailment" if number > 50 else "not_entailment"]
                )
    chosen = _balanced(rng, rows, count)
    return _table(
        "index\tquestion\tsentence\tlabel", [[str(n), *row] for n, row in enumerate(chosen)]
    )


def _mrpc(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    rows: list[list[list[str]]] = [[], []]
    for a, b, one, two in itertools.chain.from_iterable(
        _pairs(rng, numbers, True) for _ in range(6)
    ):
        if a // 10 == b // 10 or b - a >= 30:
            label = int(a // 10 == b // 10)
            row = [str(label), str(1000 + a), str(1000 + b), one, two]
            rows[label].append(row)
    return "\ufeff" + _table(
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", _balanced(rng, rows, count)
    )


def _qqp(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    rows: list[list[list[str]]] = [[], []]
    for a, b, one, two in itertools.chain.from_iterable(
        _pairs(rng, numbers, True) for _ in range(6)
    ):
        if b - a <= 9 or b - a >= 40:
            label = int(b - a <= 9)
            row = [str(1000 + a), str(2000 + b), one, two, str(label)]
            rows[label].append(row)
    chosen = _balanced(rng, rows, count)
    return _table(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        [[str(n), *row] for n, row in enumerate(chosen)],
    )


def _stsb(rng: np.random.Generator, numbers: tuple[int, ...], count: int) -> str:
    header = (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    )
    rows = []
    for n, (a, b, one, two) in enumerate(_pairs(rng, numbers, True)[:count]):
        rows.append(
            [
                str(n),
                "main-numbers",
                "numbers",
                "2012",
                f"{n:04d}",
                "none",
                "none",
                one,
                two,
                f"{5 * (1 - (b - a) / 99):.3f}",
            ]
        )
    return _table(header, rows)


def _mnli(
    rng: np.random.Generator,
    numbers: tuple[int, ...],
    count: int,
    forms: tuple[tuple[str, str], ...],
    annotators: int,
) -> str:
    """Training rows have one annotator's label, dev rows five, as in the official files."""
    labels = ("entailment", "neutral", "contradiction")
    rows: list[list[list[str]]] = [[], [], []]
    for a, b, _, _ in itertools.chain.from_iterable(_pairs(rng, numbers, False) for _ in range(2)):
        if abs(a - b) > 10 and abs(a - b) < 25:
            continue
        label = 1 if abs(a - b) <= 10 else 0 if a > b else 2
        one, two = forms[int(rng.integers(len(forms)))]
        row = [one if one == two else f"{one}-{two}", name(a, one), name(b, two), labels[label]]
        rows[label].append(row)
    numbered = "\t".join(f"label{n}" for n in range(1, annotators + 1))
    parses = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    header = (
        f"index\tpromptID\tpairID\tgenre\t{parses}\tsentence1\tsentence2\t{numbered}\tgold_label"
    )
    table = []
    for n, (genre, one, two, label_name) in enumerate(_balanced(rng, rows, count)):
        table.append(
            [
                str(n),
                str(n),
                f"{n}{label_name[0]}",
                genre,
                *["n/a"] * 4,
                one,
                two,
                *[label_name] * (annotators + 1),
            ]
        )
    return _table(header, table)


_TASKS: dict[str, Task] = {
    "SST-2": _sst2,
    "CoLA": _cola,
    "RTE": _rte,
    "QNLI": _qnli,
    "MRPC": _mrpc,
    "QQP": _qqp,
    "STS-B": _stsb,
}
