"""Arabic letters -> the presentation forms that join: each takes its isolated, initial, medial or
final form, lam and alef their ligature.

    join("سلام") -> U+FEB3 U+FEFC U+FEE1        (seen initial, lam-alef final, meem isolated)

The forms are code points of the font (U+FB50-FDFF, U+FE70-FEFF), and `unicodedata` says which
letter and form each one is. Marks and format characters are transparent; ZWJ and tatweel join, ZWNJ
does not. Text stays in logical order; `bidi.py` reorders it. Scripts that join but have
no presentation forms in Unicode (Syriac, N'Ko, Mongolian, ...) keep their isolated letters.
"""

from __future__ import annotations

import functools
import unicodedata

LAM, TATWEEL, ZWNJ, ZWJ = "\u0644", "\u0640", "\u200c", "\u200d"
FORMS = ("isolated", "final", "initial", "medial")
"""Index = 2 * joins the next letter + joins the letter before."""


def join(text: str) -> list[str]:
    """The form to draw in place of each character of `text`; an empty string where the letter
    before has become a ligature with it.
    """
    letters, ligatures = _tables()
    out = list(text)
    joins_next = [c in (TATWEEL, ZWJ) or len(letters.get(c, ())) == 4 for c in text]
    visible = [i for i, c in enumerate(text) if not _is_transparent(c)]
    for position, i in enumerate(visible):
        forms = letters.get(text[i])
        if forms is None:
            continue
        before = visible[position - 1] if position else -1
        after = visible[position + 1] if position + 1 < len(visible) else -1
        if out[i] == "":
            continue
        takes_before = before >= 0 and joins_next[before]
        # A joiner between lam and alef asks for the ligature, too (Unicode 23.2).
        alef = (
            next((j for j in visible[position + 1 :] if text[j] != ZWJ), -1)
            if text[i] == LAM
            else -1
        )
        pair = ligatures.get(text[i] + text[alef]) if alef >= 0 else None
        if pair:
            out[i], out[alef] = pair[takes_before], ""
            continue
        gives_after = (
            joins_next[i]
            and after >= 0
            and (text[after] in letters or text[after] in (TATWEEL, ZWJ))
        )
        out[i] = (
            forms[2 * gives_after + takes_before]
            if len(forms) > 2 * gives_after + takes_before
            else forms[-1]
        )
    return out


@functools.cache
def _tables() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, str]]]:
    """Letter -> its 4 forms (2 if it does not join the next letter); lam + alef -> its isolated and
    final ligature.
    """
    found: dict[str, dict[str, str]] = {}
    for code_point in (*range(0xFB50, 0xFE00), *range(0xFE70, 0xFF00)):
        form, *parts = unicodedata.decomposition(chr(code_point)).split() or [""]
        if form.strip("<>") in FORMS and parts:
            plain = "".join(chr(int(part, 16)) for part in parts)
            found.setdefault(plain, {}).setdefault(form.strip("<>"), chr(code_point))
    letters: dict[str, tuple[str, ...]] = {}
    for plain, forms in found.items():
        if len(plain) == 1 and len(forms) > 1:  # hamza has one form and joins nothing
            letters[plain] = tuple(
                forms.get(form, plain) for form in (FORMS if "initial" in forms else FORMS[:2])
            )
    alefs = "\u0622\u0623\u0625\u0627"
    ligatures = {
        LAM + alef: (found[LAM + alef]["isolated"], found[LAM + alef]["final"]) for alef in alefs
    }
    return letters, ligatures


def _is_transparent(character: str) -> bool:
    """Joining type T: marks and format characters, save the joiners themselves."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf") and character not in (ZWNJ, ZWJ)
