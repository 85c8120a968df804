"""Token ids by the slow Python classes of transformers 4.57, which version 5 has no more. Runs in an environment apart.

python slow_tokenizers.py CLASS FOLDER < texts.jsonl > ids.jsonl
"""

import json
import sys
from typing import Any

import transformers


def main() -> None:
    """One text in JSON a line, one list of ids a line."""
    name, folder = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    slow: Any = getattr(transformers, name)
    tokenizer: Any = slow.from_pretrained(folder)
    if tokenizer.is_fast:
        raise SystemExit(f"{name} is the fast class in transformers {transformers.__version__}; 4.57 is needed.")
    for line in sys.stdin:
        print(json.dumps(tokenizer(json.loads(line))["input_ids"]))


if __name__ == "__main__":
    main()
