"""Specimen pages of the renderer: one sentence in thirty languages, and forty tricky inputs, each
in the reference layout and the shaped one side by side; and captions in the layout of words.

    python tools/specimen.py docs

writes docs/rendering-languages.png, rendering-tricky.png and rendering-words.png, to be looked at.
The tests hold the tricky inputs to their pixels (tests/golden).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clippo_core.rendering import Renderer

SENTENCES: dict[str, str] = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "ro": "Toate ființele umane se nasc libere și egale în demnitate și în drepturi.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
}
"""The first sentence of the Universal Declaration of Human Rights, by language code."""

TRICKY: list[tuple[str, str]] = [
    ("empty", ""),
    ("spaces", "   "),
    ("one letter", "a"),
    ("ASCII capitals", "A Dog"),
    ("other capitals", "ÉCOLE ÄÖ Ш"),
    ("dotted I", "İstanbul"),
    ("sharp s, ligature", "straße ﬁx"),
    ("line feed", "a\nb"),
    ("CR LF", "a\r\nb"),
    ("tab", "a\tb"),
    ("controls", "a\0\x01\x7f\x85b"),
    ("separators", "a\u2028b\u2029c"),
    ("wide spaces", "a\u00a0b\u2009c\u3000d"),
    ("ZWSP, BOM", "a\u200bb\ufeffc"),
    ("ZWJ, ZWNJ", "a\u200db\u200cc"),
    ("variation selectors", "☕\ufe0e ☕\ufe0f"),
    ("bidi controls", "a\u200eb\u200fc\u2067d\u2069"),
    ("soft hyphen", "co\u00adoperate"),
    ("e + acute", "cafe\u0301"),
    ("x + acute", "x\u0301 x\u0323\u0302"),
    ("stacked marks", "a" + "\u0301\u0308\u0323" * 60 + "b"),
    ("mark first", "\u0301abc"),
    ("Arabic", "مرحبا بالعالم"),
    ("Persian, ZWNJ", "می\u200cخواهم"),
    ("Hebrew, niqqud", "שָׁלוֹם עולם"),
    ("Arabic, English, digits", "abc مرحبا 123 def (٤٥)"),
    ("Devanagari", "हिन्दी कि"),
    ("Thai", "ก่ำ น้ำ ที่นี่"),
    ("Hangul jamo", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ("CJK run", "猫が窓のそばで寝ています。" * 2),
    ("half and full at row end", "ab cd ef gh ij kl mn op qr st uv wx 日本語 yz"),
    ("emoji", "🐶 dog"),
    ("ZWJ sequence", "👨\u200d👩\u200d👧"),
    ("flag, keycap", "🇺🇸 1\ufe0f\u20e3"),
    ("skin tone", "👍🏽"),
    ("private, unassigned", "a\ue000\u0378\U0001fae8\U0002ffffb"),
    ("last code point, tags", "a\U0010ffff\U000e0001b"),
    ("lone surrogate", "ab\ud83dcd"),
    ("700 w", "w" * 700),
    ("1,000 A, one wide at the end", "A" * 1000 + "日"),
]
"""(what it is about, text): inputs on which renderers go wrong; tests/golden shows each in both
layouts."""


CAPTIONS: list[str] = [
    "A dog runs through the high grass.",
    "In the high grass runs a black dog.",
    "Two dogs, black and brown, are playing with a ball on the beach.",
]
"""Texts in which words come again."""


def words_page() -> NDArray[np.uint8]:
    """Grey picture, twice as large: captions in the reference layout (above) and in that of words
    (below), with a line at every patch border.
    """
    rows = []
    for layout in ("reference", "words"):
        pages = Renderer(96, layout=layout).render(CAPTIONS)
        tiles = [np.kron(page, np.ones((2, 2), np.uint8)) for page in pages]
        for tile in tiles:
            tile[::32], tile[:, ::32] = 180, 180
        rows.append(np.concatenate([np.pad(tile, 4, constant_values=255) for tile in tiles], 1))
    return np.concatenate(rows)


def language_page() -> NDArray[np.uint8]:
    """Grey picture: each sentence in the reference layout (left) and the shaped one (right)."""
    return _two_columns(list(SENTENCES), list(SENTENCES.values()), rows=3, label_px=32)


def tricky_page() -> NDArray[np.uint8]:
    """Grey picture: each tricky input in the reference layout (left) and the shaped one (right)."""
    return _two_columns(
        [subject for subject, _ in TRICKY], [text for _, text in TRICKY], rows=2, label_px=160
    )


def _two_columns(
    labels: list[str], texts: list[str], rows: int, label_px: int
) -> NDArray[np.uint8]:
    """Tiles of label, reference and shaped drawing, each cut to `rows` text rows, in two columns;
    an even number of them.
    """
    pages = [
        Renderer(224, layout="reference").render(texts),
        Renderer(224, layout="shaped").render(texts),
    ]
    names = Renderer(label_px).render(labels)
    tiles = []
    for index in range(len(texts)):
        parts = [names[index] + np.uint8(128), *(page[index] for page in pages)]
        parts = [
            np.pad(part, ((0, 64), (0, 0)), constant_values=255)[: 16 * rows] for part in parts
        ]
        tiles.append(
            np.concatenate([np.pad(part, 2, constant_values=255) for part in parts], axis=1)
        )
    half = len(tiles) // 2
    return np.concatenate([np.concatenate(tiles[:half]), np.concatenate(tiles[half:])], axis=1)


def main() -> None:
    """Command line, as in the file's docstring."""
    from PIL import Image

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    pages = {"languages": language_page(), "tricky": tricky_page(), "words": words_page()}
    for name, page in pages.items():
        Image.fromarray(page).quantize(4).save(folder / f"rendering-{name}.png", optimize=True)
        print(folder / f"rendering-{name}.png")


if __name__ == "__main__":
    main()
