"""The models under test: each architecture with each head it is likely to have, and the odd ones."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoints import ARCHITECTURES, HEADS, MORE_ARCHITECTURES, SEQUENCE, TOKENS, Architecture, Head, make
from tritext.build import BuildOptions, build
from tritext.build.source import locate
from tritext.repository import BuiltModel

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Variant:
    """One checkpoint and how it is built. `served`: by the real server, not in this process."""

    architecture: Architecture
    head: Head
    slow: bool = False
    engine: str = "openvino"
    served: bool = False

    @property
    def is_tokens(self) -> bool:
        return self.head.kind == TOKENS

    def make(self, name: str, folder: Path) -> None:
        """Write the checkpoint to `folder`; `name` is the variant's."""
        del name
        make(folder, self.architecture, self.head, slow=self.slow)


class Real(Variant):
    """One that other people trained: the demo of the same name makes it out of a package."""

    def make(self, name: str, folder: Path) -> None:
        sys.path.insert(0, str(ROOT))  # demo/ is no part of the installed package
        importlib.import_module(f"demo.{name}").build_checkpoint(folder)


def _variants() -> dict[str, Variant]:
    plain = {
        f"{name}.{head}": Variant(architecture, HEADS[head], served=True)
        for name, architecture in ARCHITECTURES.items()
        for head in ("single", "tokens")
    }
    more = {
        f"{name}.{head}": Variant(architecture, HEADS[head])
        for name, architecture in MORE_ARCHITECTURES.items()
        for head in ("single", "tokens")
    }
    onnx = {
        f"{name}.onnxruntime": Variant(variant.architecture, variant.head, engine="onnxruntime")
        for name, variant in plain.items()
        if variant.is_tokens or name == "bert.single"
    }
    a = ARCHITECTURES
    cased = a["bert"].but(tokenizer={"do_lower_case": False, "strip_accents": False})
    # As DeBERTa-v2-xlarge is: a convolution beside the first layer, token types, and every kind of position.
    convolved = a["deberta-v2"].but(
        conv_kernel_size=3, conv_act="gelu", position_biased_input=True, type_vocab_size=2, share_att_key=False
    )
    others = {
        "modernbert.mean.single": Variant(a["modernbert"].but(classifier_pooling="mean"), HEADS["single"]),
        "bert.multi": Variant(a["bert"], HEADS["multi"], served=True),
        "bert.regression": Variant(a["bert"], HEADS["regression"], served=True),
        "bert.one": Variant(a["bert"], HEADS["one"], served=True),
        "bert.untyped": Variant(a["bert"], HEADS["untyped"]),
        "bert.odd_tags": Variant(a["bert"], HEADS["odd_tags"]),
        "bert.left": Variant(a["bert"].but(tokenizer={"truncation_side": "left"}), HEADS["single"]),
        "bert.cased.tokens": Variant(cased, HEADS["tokens"]),
        "bert.slow.single": Variant(a["bert"], HEADS["single"], slow=True),
        "roberta.regressions": Variant(a["roberta"], HEADS["regressions"]),
        "roberta.slow.tokens": Variant(a["roberta"], HEADS["tokens"], slow=True),
        "roberta.prefix_space.tokens": Variant(
            a["roberta"].but(tokenizer={"add_prefix_space": True}), HEADS["odd_tags"]
        ),
        "xlm-roberta.multi": Variant(a["xlm-roberta"], HEADS["multi"]),
        "xlm-roberta.slow.tokens": Variant(a["xlm-roberta"], HEADS["tokens"], slow=True, served=True),
        "albert.slow.single": Variant(a["albert"], HEADS["single"], slow=True),
        "deberta-v2.convolved.single": Variant(convolved, HEADS["single"]),
        "deberta-v2.convolved.tokens": Variant(convolved, HEADS["tokens"]),
        "deberta-v2.slow.single": Variant(a["deberta-v2"], HEADS["single"], slow=True),
        "camembert.slow.tokens": Variant(a["camembert"], HEADS["tokens"], slow=True),
    }
    # The others in tests/unit/test_torch_engine.py: these go through a whole build.
    torch = {
        f"{name}.torch": replace(variant, engine="torch", served=False)
        for name, variant in {**plain, **others}.items()
        if name in {"bert.single", "xlm-roberta.tokens", "deberta-v2.convolved.tokens"}
    }
    real = {
        "pii": Real(a["bert"], Head(TOKENS, ()), served=True),
        "spam": Real(a["bert"], Head(SEQUENCE, ()), served=True),
    }
    return {**plain, **more, **onnx, **others, **torch, **real}


VARIANTS: Mapping[str, Variant] = _variants()


def own_texts(name: str) -> tuple[str, ...]:
    """What a real model is made for: the texts of its demo, one a line."""
    path = ROOT / "demo" / "texts" / f"{name}.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines()) if isinstance(VARIANTS[name], Real) else ()


def ways(*, is_tokens: bool) -> list[tuple[str, str]]:
    """Each variant of a task, and how to ask it: over gRPC where it is served, else in this process."""
    return [
        (name, "over gRPC" if variant.served else "in process")
        for name, variant in VARIANTS.items()
        if variant.is_tokens == is_tokens
    ]


class Zoo:
    """Makes and builds variants when they are first asked for; all models lie in one repository."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self._checkpoints = folder / "checkpoints"
        self._built: dict[str, BuiltModel] = {}

    def checkpoint(self, name: str) -> Path:
        """The folder of the checkpoint of variant `name`; another engine takes the same one."""
        folder = self._checkpoints / name.removesuffix(".onnxruntime").removesuffix(".torch")
        if not folder.exists():
            VARIANTS[name].make(name, folder)
        return folder

    def model(self, name: str) -> BuiltModel:
        """Variant `name`, built as `tritext build` would."""
        if name not in self._built:
            variant = VARIANTS[name]
            options = BuildOptions(name, self.repository, engine=variant.engine, precision="fp32")
            self._built[name] = build(locate(str(self.checkpoint(name))), options).model
        return self._built[name]
