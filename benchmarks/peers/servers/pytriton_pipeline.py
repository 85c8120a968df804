"""PyTriton around transformers.pipeline, with Triton's dynamic batching.

    python pytriton_pipeline.py CHECKPOINT GRPC_PORT [DTYPE] [BATCH_SIZE]

No request waits for a batch to fill.
"""

import os
import socket
import sys
import sysconfig

import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from transformers import pipeline

checkpoint, port, dtype, batch_size = [*sys.argv[1:], *("", "", "float32", "8")[len(sys.argv) - 1 :]]
torch.set_num_threads(os.cpu_count() or 1)
classifier = pipeline("text-classification", checkpoint, dtype=getattr(torch, dtype), device="cpu")


@batch
def classify(TEXT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803 - the tensor's name
    """LABEL [N, 1] and SCORE [N, 1] of TEXT [N, 1]."""
    texts = [text.decode("utf-8") for text in TEXT[:, 0]]
    answers = classifier(texts, batch_size=len(texts))
    return {
        "LABEL": np.array([[answer["label"].encode("utf-8")] for answer in answers], dtype=object),
        "SCORE": np.array([[answer["score"]] for answer in answers], dtype=np.float32),
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    # Triton's Python steps must load the libpython of this interpreter, not another one of the system's.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    host = "127.0.0.1"
    ports = {"grpc_port": int(port), "http_port": free_port(), "metrics_port": free_port()}
    addresses = {"grpc_address": host, "http_address": host, "metrics_address": host}
    with Triton(config=TritonConfig(**ports, **addresses)) as triton:
        triton.bind(
            model_name="peer",
            infer_func=classify,
            inputs=[Tensor(name="TEXT", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="LABEL", dtype=bytes, shape=(1,)), Tensor(name="SCORE", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=int(batch_size), batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
