"""Checkpoint in, model repository out: inspect, export, engine, parity, commit.

Needs the ``build`` extra (torch, transformers); nothing that serves imports this package.
"""

from tritext.build.builder import build
from tritext.build.options import BuildOptions, BuildResult

__all__ = ["BuildOptions", "BuildResult", "build"]
