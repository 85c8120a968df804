"""FastAPI around ONNX Runtime, with dynamic batching sorted by length.

    python fastapi_onnx.py EXPORTED_DIR PORT [FILE] [GROUP]

A batch of up to 32 texts is cut into groups of similar length.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from batcher import Batcher
from fastapi import FastAPI
from onnx_classifier import OnnxClassifier
from pydantic import BaseModel

folder, port, file, group = [*sys.argv[1:], *("", "", "model_quantized.onnx", "4")[len(sys.argv) - 1 :]]
batcher = Batcher(OnnxClassifier(Path(folder), file, int(group)), size=32)


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
