"""Loaded by Triton's Python backend; the work is done by the installed package."""

from tritext.stages.adapter import StageModel
from tritext.stages.encoder import EncoderStage


class TritonPythonModel(StageModel):
    stage = EncoderStage
