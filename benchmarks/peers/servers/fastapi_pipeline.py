"""FastAPI around transformers.pipeline, one text after the other.

    python fastapi_pipeline.py CHECKPOINT PORT [DTYPE]

One thread runs the model, which uses all cores for each text: more threads would fight for them.
"""

import os
import sys

import anyio
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

checkpoint, port, dtype = [*sys.argv[1:], "float32"][:3]
torch.set_num_threads(os.cpu_count() or 1)
classifier = pipeline("text-classification", checkpoint, dtype=getattr(torch, dtype), device="cpu")
one_at_a_time = anyio.CapacityLimiter(1)
app = FastAPI()


class Request(BaseModel):
    """What a client sends."""

    text: str


@app.post("/classify")
async def classify(request: Request) -> dict:
    """Label and score of a text."""
    answers = await anyio.to_thread.run_sync(classifier, request.text, limiter=one_at_a_time)
    return answers[0]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
