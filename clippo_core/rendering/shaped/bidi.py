"""The Unicode bidirectional algorithm (UAX #9): a level for each character of a paragraph, and the
visual order of a line.

    embedding_levels("abc אבג 12") -> 0 0 0 0 1 1 1 1 2 2   even: left to right, odd: right to left
    visual_order(levels)           -> indices from left to right

All rules are applied: embeddings, overrides and isolates (X1-X10), weak types (W1-W7), brackets
(N0), neutrals (N1, N2), implicit levels (I1, I2), trailing space (L1), reordering (L2), mirroring
(L4). Only texts with a right-to-left character or control come here. The character data are
Python's `unicodedata`. Joining is in `joining.py`.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

MAX_DEPTH = 125
"""Deepest explicit level, UAX #9 BD2."""
REMOVED = frozenset({"RLE", "LRE", "RLO", "LRO", "PDF", "BN"})
"""Types that rule X9 takes out of the paragraph; their level here is -1."""
ISOLATES = frozenset({"LRI", "RLI", "FSI"})
NEUTRAL = frozenset({"B", "S", "WS", "ON", "LRI", "RLI", "FSI", "PDI"})


def needs_bidi(text: str) -> bool:
    """Whether any character can be displayed from right to left."""
    return any(unicodedata.bidirectional(c) in ("R", "AL", "AN", "RLE", "RLO", "RLI") for c in text)


def embedding_levels(text: str) -> tuple[list[int], int]:
    """Level of each character of one paragraph (-1 for controls that rule X9 removes), and the
    paragraph's own level, 0 or 1.
    """
    types = [unicodedata.bidirectional(c) or "L" for c in text]
    base = _paragraph_level(types, 0, len(types))
    levels, resolved = _explicit(types, base)
    for sequence, start, end in _isolating_runs(types, levels, base):
        _weak(resolved, sequence, start)
        _brackets(text, types, resolved, sequence, levels[sequence[0]], start)
        _neutral(resolved, sequence, levels[sequence[0]], start, end)
        for i in sequence:
            if levels[i] % 2:
                levels[i] += resolved[i] in ("L", "EN", "AN")
            else:
                levels[i] += {"R": 1, "EN": 2, "AN": 2}.get(resolved[i], 0)
    return levels, base


def reset_trailing_space(text: str, levels: list[int], base: int) -> list[int]:
    """Rule L1 for one line: separators, and white space before them or at the line's end, have the
    paragraph's level.
    """
    levels = list(levels)
    trailing = True
    for i in range(len(text) - 1, -1, -1):
        kind = unicodedata.bidirectional(text[i])
        if kind in ("B", "S"):
            trailing = True
        elif kind not in ("WS", "PDI") and kind not in ISOLATES and kind not in REMOVED:
            trailing = False
        if trailing and levels[i] >= 0:
            levels[i] = base
    return levels


def visual_order(levels: Sequence[int]) -> list[int]:
    """Indices of one line's characters from left to right (rule L2); every level must be 0 or
    more.
    """
    order = list(range(len(levels)))
    odd = [level for level in levels if level % 2]
    for level in range(max(levels, default=0), min(odd, default=0) - 1, -1):
        begin = 0
        while level and begin < len(order):
            end = begin
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            order[begin:end] = order[begin:end][::-1]
            begin = end + 1
    return order


@functools.lru_cache(maxsize=4096)
def mirrored(character: str) -> str:
    """The character to draw in a right-to-left run (rule L4): the bracket or comparison that faces
    the other way, or itself.
    """
    if not unicodedata.mirrored(character):
        return character
    name = unicodedata.name(character, "")
    for one, other in (
        ("LEFT", "RIGHT"),
        ("RIGHT", "LEFT"),
        ("LESS-THAN", "GREATER-THAN"),
        ("GREATER-THAN", "LESS-THAN"),
    ):
        if one in name:
            try:
                return unicodedata.lookup(name.replace(one, other))
            except KeyError:
                return character
    return character


def _paragraph_level(types: list[str], begin: int, end: int) -> int:
    """Rules P2 and P3: the first strong character outside isolates decides."""
    depth = 0
    for kind in types[begin:end]:
        if kind in ISOLATES:
            depth += 1
        elif kind == "PDI":
            if begin and not depth:
                return 0  # the isolate that starts at `begin` ends here (rule X5c)
            depth = max(depth - 1, 0)
        elif not depth and kind in ("L", "R", "AL"):
            return int(kind != "L")
    return 0


def _explicit(types: list[str], base: int) -> tuple[list[int], list[str]]:
    """Rules X1 to X9: levels from embeddings, overrides and isolates; and the types after
    overrides.
    """
    levels, resolved = [base] * len(types), list(types)
    stack: list[tuple[int, str, bool]] = [(base, "", False)]
    lost_isolates = lost_embeddings = valid_isolates = 0
    for i, kind in enumerate(types):
        level, override, _ = stack[-1]
        if kind in ("RLE", "LRE", "RLO", "LRO") or kind in ISOLATES:
            is_isolate = kind in ISOLATES
            if is_isolate:
                levels[i] = level
                resolved[i] = override or kind
            to_right = kind[0] == "R" or (
                kind == "FSI" and _paragraph_level(types, i + 1, len(types)) == 1
            )
            new = level + 1 + (level % 2 == int(to_right))
            if new <= MAX_DEPTH and not lost_isolates and not lost_embeddings:
                valid_isolates += is_isolate
                stack.append((new, {"RLO": "R", "LRO": "L"}.get(kind, ""), is_isolate))
            elif is_isolate:
                lost_isolates += 1
            elif not lost_isolates:
                lost_embeddings += 1
        elif kind == "PDI":
            if lost_isolates:
                lost_isolates -= 1
            elif valid_isolates:
                lost_embeddings = 0
                while not stack.pop()[2]:
                    pass
                valid_isolates -= 1
            levels[i] = stack[-1][0]
            resolved[i] = stack[-1][1] or kind
        elif kind == "PDF":
            if not lost_isolates and lost_embeddings:
                lost_embeddings -= 1
            elif not lost_isolates and not stack[-1][2] and len(stack) > 1:
                stack.pop()
        elif kind == "B":
            levels[i] = base
        else:
            levels[i] = level
            resolved[i] = override or kind
        if kind in REMOVED:
            levels[i] = -1
    return levels, resolved


def _isolating_runs(
    types: list[str], levels: list[int], base: int
) -> list[tuple[list[int], str, str]]:
    """Rule X10: runs of one level, joined across isolates; each with the types `sos` and `eos` at
    its ends.
    """
    kept = [i for i, level in enumerate(levels) if level >= 0]
    runs: list[list[int]] = []
    for position, i in enumerate(kept):
        if position and levels[i] == levels[kept[position - 1]]:
            runs[-1].append(i)
        else:
            runs.append([i])
    matching = _matching_pdi(types)
    by_start = {run[0]: run for run in runs}
    joined = []
    for run in runs:
        if types[run[0]] == "PDI" and run[0] in matching.values():
            continue  # it continues a sequence that began at its isolate
        sequence = list(run)
        while types[sequence[-1]] in ISOLATES and matching.get(sequence[-1], -1) in by_start:
            sequence += by_start[matching[sequence[-1]]]
        joined.append(sequence)
    place = {i: position for position, i in enumerate(kept)}
    out = []
    for sequence in joined:
        level, first, last = levels[sequence[0]], place[sequence[0]], place[sequence[-1]]
        before = levels[kept[first - 1]] if first else base
        open_end = types[sequence[-1]] in ISOLATES  # an isolate without its PDI
        after = base if open_end or last + 1 == len(kept) else levels[kept[last + 1]]
        out.append(
            (
                sequence,
                "R" if max(level, before) % 2 else "L",
                "R" if max(level, after) % 2 else "L",
            )
        )
    return out


def _matching_pdi(types: list[str]) -> dict[int, int]:
    """Isolate initiator -> its PDI (BD9)."""
    opened: list[int] = []
    matching = {}
    for i, kind in enumerate(types):
        if kind in ISOLATES:
            opened.append(i)
        elif kind == "PDI" and opened:
            matching[opened.pop()] = i
    return matching


def _weak(kinds: list[str], sequence: list[int], start: str) -> None:
    """Rules W1 to W7, in place."""
    before = start
    for i in sequence:  # W1
        if kinds[i] == "NSM":
            kinds[i] = "ON" if before in ISOLATES or before == "PDI" else before
        before = kinds[i]
    strong = start
    for i in sequence:  # W2, W3
        if kinds[i] in ("L", "R", "AL"):
            strong = kinds[i]
        if kinds[i] == "EN" and strong == "AL":
            kinds[i] = "AN"
    for i in sequence:
        if kinds[i] == "AL":
            kinds[i] = "R"
    for left, i, right in zip(sequence, sequence[1:], sequence[2:], strict=False):  # W4
        same = kinds[left] == kinds[right]
        if same and (
            kinds[i] == "CS"
            and kinds[left] in ("EN", "AN")
            or kinds[i] == "ES"
            and kinds[left] == "EN"
        ):
            kinds[i] = kinds[left]
    for order in (sequence, sequence[::-1]):  # W5
        touching = False
        for i in order:
            if kinds[i] == "ET" and touching:
                kinds[i] = "EN"
            touching = kinds[i] == "EN"
    strong = start
    for i in sequence:  # W6, W7
        if kinds[i] in ("ES", "ET", "CS"):
            kinds[i] = "ON"
        if kinds[i] in ("L", "R"):
            strong = kinds[i]
        if kinds[i] == "EN" and strong == "L":
            kinds[i] = "L"


def _brackets(
    text: str, types: list[str], kinds: list[str], sequence: list[int], level: int, start: str
) -> None:
    """Rule N0, in place: a pair of brackets takes the direction of what it encloses, or of what
    stands before it.
    """
    along = "R" if level % 2 else "L"
    for opening, closing in _bracket_pairs(text, kinds, sequence):
        inside = {_strong(kinds[i]) for i in sequence[opening + 1 : closing]} - {""}
        if along in inside:
            direction = along
        elif inside:
            before = next(
                (_strong(kinds[i]) for i in reversed(sequence[:opening]) if _strong(kinds[i])),
                start,
            )
            direction = before if before != along else along
        else:
            continue
        for position in (opening, closing):
            kinds[sequence[position]] = direction
            for i in sequence[position + 1 :]:  # marks that followed the bracket go with it
                if types[i] != "NSM":
                    break
                kinds[i] = direction


def _bracket_pairs(text: str, kinds: list[str], sequence: list[int]) -> list[tuple[int, int]]:
    """BD16: positions in the sequence of matching brackets, by their opening ones; nothing beyond
    63 open ones.
    """
    opened: list[tuple[str, int]] = []
    pairs = []
    for position, i in enumerate(sequence):
        character = unicodedata.normalize("NFC", text[i])
        category = unicodedata.category(character)
        if kinds[i] != "ON" or category not in ("Ps", "Pe") or mirrored(character) == character:
            continue
        if category == "Ps":
            if len(opened) == 63:
                break
            opened.append((mirrored(character), position))
            continue
        for depth in range(len(opened) - 1, -1, -1):
            if opened[depth][0] == character:
                pairs.append((opened[depth][1], position))
                del opened[depth:]
                break
    return sorted(pairs)


def _strong(kind: str) -> str:
    return "R" if kind in ("R", "EN", "AN") else "L" if kind == "L" else ""


def _neutral(kinds: list[str], sequence: list[int], level: int, start: str, end: str) -> None:
    """Rules N1 and N2, in place: neutrals between two of one direction take it, the others that of
    their level.
    """
    position = 0
    before = start
    while position < len(sequence):
        if kinds[sequence[position]] not in NEUTRAL:
            before = _strong(kinds[sequence[position]]) or before
            position += 1
            continue
        stop = position
        while stop < len(sequence) and kinds[sequence[stop]] in NEUTRAL:
            stop += 1
        after = _strong(kinds[sequence[stop]]) if stop < len(sequence) else end
        direction = before if before == after else "R" if level % 2 else "L"
        for i in sequence[position:stop]:
            kinds[i] = direction
        position = stop
