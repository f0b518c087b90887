"""Process environment that makes arithmetic repeatable; to be set before numpy or torch is imported."""

from __future__ import annotations

import os
import sys

from stages.settings import Execution

# With these an x86-64 CPU with AVX2 takes the same code paths, and so gives the same bits, whatever else it can do.
# MKL's AVX2 branch differs between makers of CPUs (measured: AMD Zen 3 against an emulated Haswell), its COMPATIBLE
# branch does not; oneDNN, which runs the convolutions, is not slowed by it.
CPU_CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
# Without it torch's deterministic algorithms refuse every matrix product on a GPU.
CUDA = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def apply(execution: Execution) -> None:
    """Sets the environment of this process and of those that it starts.

    Raises:
        RuntimeError: numpy or torch is imported already and the environment is not the wanted one.
    """
    wanted = dict.fromkeys(THREADS, str(execution.threads))
    if execution.cpu_caps:
        wanted |= CPU_CAPS
    if execution.device == "cuda":
        wanted |= CUDA
    missing = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
    imported = [name for name in ("numpy", "torch") if name in sys.modules]
    if missing and imported:
        raise RuntimeError(
            f"{' and '.join(imported)} is imported before the environment was set ({', '.join(missing)}); "
            "call stages.environment.apply first"
        )
    os.environ.update(missing)
