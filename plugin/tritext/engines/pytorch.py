"""PyTorch: the engine for GPUs. It needs torch and transformers where it serves, not only where it builds."""

import errno
import json
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final

from tritext.engines.base import Artefact, Ingredients, Precision, Runner, RunnerOptions
from tritext.engines.machine import processor_lacks
from tritext.errors import EngineError, ExportError

PACKING: Final = "packing.json"  # beside the weights: how the model is asked, a `torch_load.Packing`
_FOLDER: Final = "torch"
_MISSING: Final = "PyTorch or transformers is not installed here. Install them with: pip install 'tritext[torch]'"


class PyTorch:
    """Runs the checkpoint's own module, on the GPU where there is one.

    Weights lie in fp32 and are rounded when they are loaded; heads stay in fp32. On a GPU fp32 is exact, without TF32.
    """

    name: ClassVar[str] = "torch"
    divides: ClassVar[bool] = False
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "bf16", "fp16")

    def build(self, ingredients: Ingredients, precision: Precision, folder: Path) -> Artefact:
        """Write ``torch/config.json`` and ``torch/model.safetensors``, which all precisions share."""
        import torch
        import transformers
        from safetensors import SafetensorError

        from tritext.build.checkpoint import position_offset

        del precision
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        transformers.utils.logging.disable_progress_bar()
        artefact, path = Artefact(_FOLDER, (_FOLDER,), "encoder_python", versions), folder / _FOLDER
        if path.exists():
            return artefact
        try:
            ingredients.module.save_pretrained(path, max_shard_size="1TB")  # one file
        except SafetensorError as error:  # its way to say that the disk is full
            raise OSError(errno.EIO, f"The weights could not be saved ({error})") from error
        except (RuntimeError, ValueError, NotImplementedError) as error:
            detail = str(error).strip().split("\n", maxsplit=1)[0]
            raise ExportError(f"transformers cannot save the model: {detail}") from error
        graph = ingredients.graph
        packing = {
            "inputs": graph.inputs, "packed": graph.packed,
            "position_offset": position_offset(ingredients.module.config),
        }  # fmt: skip
        (path / PACKING).write_text(json.dumps(packing) + "\n", encoding="utf-8")
        return artefact

    def automatic(self) -> bool:
        """Where there is a GPU. On a CPU the others are faster."""
        return _is_installed() and _has_cuda()

    def lacks(self, precision: Precision) -> str | None:
        """What the GPU lacks, or else the processor."""
        if not _is_installed():
            return _MISSING.removesuffix(".")
        if not _has_cuda():
            return (
                "fp16 needs a CUDA device, and torch sees none" if precision == "fp16" else processor_lacks(precision)
            )
        import torch

        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return f"this GPU ({torch.cuda.get_device_name()}) computes no bf16"
        return None

    def runner(self, path: Path, options: RunnerOptions) -> Runner:
        """Load the model. `options.engine`: ``device`` ("cuda", "cuda:1", "cpu") and ``graphs``, see `TorchRunner`."""
        if not _is_installed():
            raise EngineError(_MISSING)
        from tritext.engines.torch_runner import TorchRunner

        return TorchRunner.load(path, options)


def _is_installed() -> bool:
    return all(find_spec(name) for name in ("torch", "transformers"))


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


ENGINE: Final = PyTorch()
