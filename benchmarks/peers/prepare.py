"""What is made before the first server starts: checkpoints, exports, our repositories, texts and right answers."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.checkpoints import CHECKPOINTS
from benchmarks.peers.catalogue import SERVERS, Peer
from benchmarks.peers.processes import ServerFailed
from benchmarks.peers.setup import ENVIRONMENTS, is_ready, python
from tritext.bench.lengths import Lengths, texts_of

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = {"minilm": ROOT / ".demo/checkpoints/spam", "bert-base": ROOT / ".demo/checkpoints/bert-base"}
MAILS: Final = ROOT / "demo" / "texts" / "spam.txt"

# A Fibonacci number and the one before it: taking every 233rd of 377 sorted lengths (modulo 377) puts short and long
# ones so that any stretch of a few dozen has nearly the same mix. A slow server answers one stretch, a fast one all.
TEXTS: Final = 377
STRIDE: Final = 233
TURN: Final = 75
SPECIAL: Final = 2  # [CLS] and [SEP]
# A text nearer to the boundary than this may change its label by a low precision, which is no fault of a server.
MARGIN: Final = 1.0


@dataclass(frozen=True)
class Texts:
    """Texts in the order in which they are sent, their tokens, and texts with the labels that are right."""

    texts: list[str]
    tokens: list[int]
    checked: list[str]
    labels: list[str]

    def turned(self, number: int) -> "Texts":
        """The same, beginning elsewhere: each round meets a slow server with other texts, all servers with the same."""
        start = number * TURN % len(self.texts)
        texts, tokens = self.texts, self.tokens
        return replace(self, texts=texts[start:] + texts[:start], tokens=tokens[start:] + tokens[:start])


def checkpoint(name: str) -> Path:
    """The folder of a checkpoint, made where it is missing."""
    return CHECKPOINTS[name](FOLDERS[name])


def spread(lengths: Sequence[int]) -> list[int]:
    """The lengths in an order whose every stretch is like the whole."""
    ordered = sorted(lengths)
    return [ordered[place * STRIDE % len(ordered)] for place in range(len(ordered))]


def texts(folder: Path, seed: int = 0) -> Texts:
    """Texts with log-normal lengths, and right labels as the checkpoint in `folder` gives them in fp32."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def count(some: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(some))]

    distribution = Lengths()
    lengths = spread(distribution.draw(TEXTS, seed, SPECIAL + 1, distribution.longest).tolist())
    made = texts_of(np.array(lengths), count, seed)
    candidates = [*MAILS.read_text(encoding="utf-8").splitlines(), *made[:24]]
    labels = _labels(folder, candidates)
    clear = [place for place, label in enumerate(labels) if label is not None]
    return Texts(made, count(made), [candidates[place] for place in clear], [str(labels[place]) for place in clear])


def _labels(folder: Path, some: Sequence[str]) -> list[str | None]:
    """The checkpoint's label of each text; None where two are within MARGIN of each other."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[str | None] = []
    for text in some:
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt", truncation=True)).logits[0]
        second, best = logits.sort().values[-2:].tolist()
        found.append(model.config.id2label[int(logits.argmax())] if best - second >= MARGIN else None)
    return found


def exported(name: str, source: Path) -> Path:
    """The checkpoint for ONNX Runtime, exported where it is missing or older; SystemExit where that fails."""
    folder = ENVIRONMENTS / "onnx" / name
    result = folder / "model_quantized.onnx"
    if not result.is_file() or result.stat().st_mtime < (source / "model.safetensors").stat().st_mtime:
        command = [*map(str, (python("transformers"), SERVERS / "export_onnx.py", source, folder))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{source} could not be exported for ONNX Runtime: {_last_line(done.stderr)}")
    return folder


def command(peer: Peer, name: str, source: Path, port: int) -> list[str]:
    """The command that serves the checkpoint `name` at `port`; builds our own. ServerFailed where it cannot be."""
    if peer.environment and not is_ready(peer.environment):
        raise ServerFailed(f"not installed; python -m benchmarks.peers.setup {peer.environment}")
    values = {
        "python": str(python(peer.environment)) if peer.environment else sys.executable,
        "tritext": str(_tritext()),
        "checkpoint": str(source),
        "exported": str(ENVIRONMENTS / "onnx" / name),
        "repository": str(_build(peer, name, source)) if peer.is_ours else "",
        "port": str(port),
    }
    return [part.format(**values) for part in peer.command]


def environment(peer: Peer) -> dict[str, str]:
    """What a server finds in its environment: nothing that asks a network."""
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "LIT_SERVE_DISABLE_UPDATE_CHECK": "1"}
    folder = str(python(peer.environment).parent) if peer.environment else str(Path(sys.executable).parent)
    return {**os.environ, **quiet, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}


def repository(peer: Peer, name: str) -> Path:
    """Where the model that our `peer` serves is built."""
    return ENVIRONMENTS / "tritext" / name / peer.name


def _build(peer: Peer, name: str, source: Path) -> Path:
    out = repository(peer, name)
    line = [str(_tritext()), "build", str(source), "--name", "peer", "--out", str(out), *peer.build]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailed(f"tritext build {' '.join(peer.build)}: {_last_line(done.stderr)}")
    return out


def _tritext() -> Path:
    return Path(sys.executable).parent / "tritext"


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it gave no reason"
