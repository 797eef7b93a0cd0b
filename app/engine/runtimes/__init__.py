"""Runtimes: the libraries that execute a model, behind one interface.

Owns the choice by name. A runtime's module is imported only when it is chosen, so that nobody pays for the import (or
needs the installation) of the other one.
"""

from __future__ import annotations

from typing import Literal

from app.engine.runtimes.base import ModelSpec, Runtime

RuntimeName = Literal["tensorflow", "litert"]

__all__ = ["ModelSpec", "Runtime", "RuntimeName", "open_runtime"]


def open_runtime(name: RuntimeName, spec: ModelSpec, *, threads: int) -> Runtime:
    """Load the model with one library. Raises BundleError: the library is missing or refuses the model."""
    if name == "litert":
        from app.engine.runtimes.litert import LiteRTRuntime

        return LiteRTRuntime(spec, threads=threads)
    from app.engine.runtimes.tensorflow import TensorFlowRuntime

    return TensorFlowRuntime(spec, threads=threads)
