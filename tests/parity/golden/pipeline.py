"""Answers of the question-answering pipeline of transformers 4.57, for whoever has a newer one: a process of its own.

    PYTHONPATH=FOLDER python pipeline.py < job > answers

FOLDER has transformers 4.57 and what it needs; torch may be the caller's. The job is a JSON object: ``checkpoint``, a
folder, and ``cases``, a list of question, context and options. The answers are a list: for each case a list of score,
start and end, the best first, or the name of the exception.
"""

import json
import sys
from typing import Any

import torch
import transformers


def answers(found: Any) -> list[list[float]]:
    """What the pipeline gives: one answer, or a list of them."""
    listed = found if isinstance(found, list) else [found]
    return [[each["score"], each["start"], each["end"]] for each in listed]


def main() -> None:
    """Ask the pipeline each case alone."""
    if not transformers.__version__.startswith("4.57."):
        raise SystemExit(f"This is transformers {transformers.__version__}; put 4.57 on PYTHONPATH.")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    job = json.load(sys.stdin)
    # Version 5 writes this one as a list, which 4.57 cannot read; the tokens themselves are in tokenizer.json.
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"], extra_special_tokens={})
    pipe: Any = transformers.pipeline(
        "question-answering", model=job["checkpoint"], tokenizer=tokenizer, device="cpu", dtype=torch.float32
    )
    given: list[Any] = []
    for question, context, options in job["cases"]:
        try:
            given.append(answers(pipe(question=question, context=context, **options)))
        except BaseException as error:  # noqa: BLE001 - a panic of tokenizers is no Exception
            given.append(type(error).__name__)
    json.dump(given, sys.stdout)


if __name__ == "__main__":
    main()
