"""Export a checkpoint for ONNX Runtime: model.onnx (fp32) and model_quantized.onnx (int8), with its tokenizer.

    python export_onnx.py CHECKPOINT OUT_DIR

As ONNX Runtime's documentation has it for transformers on CPUs: fuse attention, layer norms and GELU first, then
quantise dynamically (weights int8, one scale a channel; activations by each tensor's own range at run time).
"""

import shutil
import sys
import warnings
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from transformers import AutoModelForSequenceClassification

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


class Logits(torch.nn.Module):
    """The checkpoint with tensors in and a tensor out."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager")
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, labels] of INPUTS [N, tokens]."""
        return self.model(**dict(zip(INPUTS, inputs, strict=True))).logits


def export(checkpoint: Path, path: Path) -> None:
    """Write the fused fp32 model."""
    model, example = Logits(checkpoint), torch.ones(2, 16, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {"logits": {0: "batch"}}
    names = {"input_names": INPUTS, "output_names": ["logits"], "dynamic_axes": axes}
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(model, (example,) * 3, path, **names, opset_version=17, dynamo=False)
    config = model.model.config
    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False  # its quantised form is no faster, and not every version can run it
    heads, hidden = config.num_attention_heads, config.hidden_size
    fused = optimize_model(str(path), "bert", heads, hidden, optimization_options=options)
    fused.save_model_to_file(str(path))


if __name__ == "__main__":
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for file in source.glob("[!.]*.json"):
        shutil.copyfile(file, out / file.name)
    export(source, out / "model.onnx")
    quantize_dynamic(
        out / "model.onnx",
        out / "model_quantized.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # shapes cannot be inferred through fused nodes
    )
