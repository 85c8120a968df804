"""Loaded by Triton's Python backend; the work is done by the installed package."""

from tritext.stages.adapter import StageModel
from tritext.stages.tokenizer import TokenizerStage


class TritonPythonModel(StageModel):
    stage = TokenizerStage
