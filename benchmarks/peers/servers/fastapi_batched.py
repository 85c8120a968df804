"""FastAPI around transformers.pipeline with dynamic batching.

    python fastapi_batched.py CHECKPOINT PORT [DTYPE] [BATCH_SIZE]

What waits while the model is busy is its next batch.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
import uvicorn
from batcher import Batcher
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

checkpoint, port, dtype, batch_size = [*sys.argv[1:], *("", "", "float32", "8")[len(sys.argv) - 1 :]]
torch.set_num_threads(os.cpu_count() or 1)
classifier = pipeline("text-classification", checkpoint, dtype=getattr(torch, dtype), device="cpu")
batcher = Batcher(lambda texts: classifier(texts, batch_size=len(texts)), size=int(batch_size))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Run the batcher while the server runs."""
    task = asyncio.create_task(batcher.run())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


class Request(BaseModel):
    """What a client sends."""

    text: str


@app.post("/classify")
async def classify(request: Request) -> dict:
    """Label and score of a text."""
    return await batcher(request.text)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
