"""Which graphs NVIDIA's own builder takes: family × precision × GPU, plan's size and seconds, or the reason.

    python bench/tensorrt_graphs.py [--quick]

TensorRT for RTX (``pip install 'tensorrt-rtx-cu13==1.7.*'``) builds for named GPUs on a machine without one. That
proves that graphs are accepted, not that they are fast. The networks are those of
`tests/evaluators/tensorrt/graphs.py`: small, but of the families that are served.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from common.environment import describe

from autocompress.evaluators.runtimes import load

CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120")
QUICK = ("residual", "mlp")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two families for one GPU only")
    quick = parser.parse_args().quick
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "evaluators" / "tensorrt"))
    warnings.simplefilter("ignore")  # of exporters
    graphs: Any = import_module("graphs")
    trt = import_module("tensorrt_rtx")
    print(f"{describe(load('onnxruntime'))}, tensorrt_rtx {trt.__version__}\n")
    print(f"{'family':<15}{'precision':<11}{'GPU':<7}{'plan kB':>8}{'seconds':>9}")
    taken = refused = 0
    for family, precision in graphs.ALL:
        for capability in CAPABILITIES[3:4] if quick else CAPABILITIES:
            if quick and family not in QUICK:
                continue
            it = graphs.attempt(trt, family, precision, capability)
            taken, refused = taken + (not it.refused), refused + bool(it.refused)
            size = "refused" if it.refused else f"{it.plan_bytes / 1e3:,.0f}"
            row = f"{family:<15}{precision:<11}{capability:<7}{size:>8}{it.seconds:>9.2f}"
            print(f"{row}  {it.refused}".rstrip(), flush=True)
    print(f"\n{taken} accepted, {refused} refused")


if __name__ == "__main__":
    main()
