"""Checkpoint in, model repository out: inspect, export, engine, parity, commit.

Needs the ``build`` extra (torch, transformers); nothing that serves imports this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritext.build.builder import build
    from tritext.build.options import BuildOptions, BuildResult

__all__ = ["BuildOptions", "BuildResult", "build"]


def __getattr__(name: str) -> Any:
    # Seconds of imports, which whoever gives a wrong path should not wait for.
    if name == "build":
        from tritext.build.builder import build

        return build
    if name in __all__:
        from tritext.build import options

        return getattr(options, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
