"""Make question_answering.json anew: what the pipeline of transformers 4.57 answers to the cases in ../questions.py.

    pip install --target FOLDER --no-deps "transformers==4.57.*" "huggingface-hub<1" "tokenizers<0.23" requests …
    python tests/parity/golden/make_question_answering.py FOLDER

Cases whose answers rounding could change are left out, and so are answers of probability 0, of which the pipeline gives
any. A case is its place in the list with its answers: score, start and end.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from questions import GOLDEN, MODELS, Case, cases, digest_of, make_checkpoint  # noqa: E402 - lie beside this folder

_NEAR = 2e-6  # of scores; in fp32 they are within 1e-6 of each other on all machines


def ask(checkpoint: Path, asked: list[Case], folder: str) -> list[Any]:
    """The pipeline's answers, out of a process of its own."""
    renamed = [(c.question, c.context, {_PIPELINES.get(k, k): v for k, v in c.options.items()}) for c in asked]
    done = subprocess.run(
        [sys.executable, str(HERE / "pipeline.py")],
        input=json.dumps({"checkpoint": str(checkpoint), "cases": renamed}),
        env={**os.environ, "PYTHONPATH": folder}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: list[Any] = json.loads(done.stdout)
    return found


_PIPELINES = {"max_answer_length": "max_answer_len"}


def _is_sure(answers: Any) -> bool:
    scores = [score for score, *_ in answers] if isinstance(answers, list) else []
    return isinstance(answers, str) or all(a - b > _NEAR for a, b in itertools.pairwise(scores))


def main() -> None:
    """Ask, and write."""
    written: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in MODELS:
            checkpoint = make_checkpoint(Path(scratch) / name, name)
            asked = cases(name)
            found = ask(checkpoint, asked, sys.argv[1])
            kept = {
                number: answers if isinstance(answers, str) else [[round(s, 8), b, e] for s, b, e in answers if s > 0]
                for number, answers in enumerate(found)
                if _is_sure(answers)
            }
            print(name, len(asked), "cases,", len(kept), "kept", [a for a in kept.values() if isinstance(a, str)])
            written[name] = {"of": digest_of(checkpoint, asked), "answers": kept}
    GOLDEN.write_text(json.dumps(written, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
