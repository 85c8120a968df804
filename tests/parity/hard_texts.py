"""Texts of many scripts and lengths, and those that break tokenizers."""

from hypothesis import strategies as st

from tritext.build.texts import parity_texts

_AWKWARD = (
    "\0",
    "\0a\0b",
    "  leading, and trailing  ",
    "\n\t\r\u2028\u2029\x0b",
    "\ufeffbyte order mark",
    "non-breaking\u00a0space and ideographic\u3000space",
    "e\u0301te\u0301 decomposed, \u00e9t\u00e9 composed, \u1e9b\u0323 both",
    "\u0301\u0302 marks without a letter",
    "İstanbul'da ŞİŞLİ, ΣΊΣΥΦΟΣ, ǅungla",  # lower case is longer, or another letter at the end of a word
    "ﷺ ㍿ ﬃ ² \u210c",  # one code point becomes several, or a letter
    "👩‍👩‍👧‍👦👍🏽🇩🇪❤️🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\u200f\u202eright to left\u202c \u2066isolate\u2069\u200e",
    "\U000e0fff\u0378\ue000\ufffd\uffff",  # unassigned, private, replacement, no character
    "\x01\x1b[31mred\x1b[0m\x7f\x85",
    "ꦲꦏ꧀ꦱꦫ ჯჯჯ ᏣᎳᎩ ሰላም வணக்கம்",  # scripts that no tokenizer here was trained on
    "word " * 60 + "end",
    "nospacesatall" * 40,
    "。".join(["漢字仮名交じり文"] * 30),
    "a" * 101,  # WordPiece gives up on words of more than 100 letters
    "x" * 5000,
    "[MASK] in [SEP] the <mask> middle </s> of [PAD]<pad> text [UNK]<unk>",
    "O'Neil—the “quoted” co-operative\u2019s U.S.A. ... ¿qué? ¡olé!",
    "1,234.50€ 3²=9 ½ x10⁻³ 50% #1 @you /path/to",
)
SINGLE: tuple[str, ...] = (*(text for text in parity_texts(pairs=False) if isinstance(text, str)), *_AWKWARD)

_LONG = SINGLE[25]
PAIRS: tuple[tuple[str, str], ...] = (
    *(pair for pair in parity_texts(pairs=True) if isinstance(pair, tuple)),
    ("", ""),
    ("\0", "👩‍👩‍👧‍👦"),
    ("same", "same"),
    ("word " * 59, "other " * 59),
    ("word " * 300, ""),
    ("", "word " * 300),
    ("short one", _LONG * 4),
    (_LONG * 4, "short one"),
    ("[SEP] </s>", "[CLS] <s>"),
)

# Letters of many kinds, and what each family of tokenizers treats in its own way.
ANY_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \t\n\u00a0\u3000\u200d\u0301▁Ġ#[]<>aAeéßİ漢字ﬁ½"),
    ),
    max_size=60,
) | st.lists(st.sampled_from(["[MASK]", "<mask>", " ", "word", "##ing", "</s>", "Ünïted", "国", "."])).map("".join)
