"""Where the time of a training step goes: the kernels of the cases of `bench.py`, by what they are for.

    python benchmarks/where_time_goes.py --cases a,b,c,d

torch's profiler sees every operation of a fit; its own time is added up by kind. What is left of the wall clock is Python and launching. The
profiler costs some time itself, so the shares are what to read, and not the seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "speed"))

from bench import Bench  # noqa: E402
from cases import CASES  # noqa: E402
from rows import OPTIONS  # noqa: E402

KINDS = {
    "matrix products": (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "linear",
        "mkldnn_linear",
        "mkldnn_linear_backward",
        "addmv",
        "dot",
        "mv",
    ),
    "attention": ("scaled_dot_product", "flash_attention", "softmax", "masked_fill"),
    "norms": ("layer_norm", "rms_norm", "rsqrt", "pow", "mean"),
    "activations": ("gelu", "silu", "tanh", "relu", "sigmoid"),
    "optimiser": ("fused_adamw", "foreach"),
    "embeddings": ("embedding", "index_select", "gather", "index"),
    "dropout": ("bernoulli", "random", "bitwise", "dropout"),
    "copies and casts": ("copy", "to", "clone", "cat", "contiguous", "fill", "zero", "empty", "resize"),
    "loss": ("log_softmax", "nll_loss", "cross_entropy", "logsumexp", "exp"),
}
OTHER = "sums and other element-wise passes"
PYTHON = "Python and launching"


def kind_of(name: str) -> str:
    """What an operation is for, by its name."""
    bare = name.removeprefix("aten::").strip("_")
    for kind in ("optimiser", "loss", "attention", "norms", "activations", "embeddings", "dropout"):
        if any(word in bare for word in KINDS[kind]):
            return kind
    for kind in ("matrix products", "copies and casts"):
        if any(bare == word or bare.startswith((f"{word}_", f"{word}.")) for word in KINDS[kind]):
            return kind
    return OTHER


def profiled(case: Any, rows: int | None) -> dict[str, Any]:
    """Shares of one fit."""
    import torch

    import tunesmith
    from tunesmith.training import loop

    found: dict[str, Any] = {}
    plain = loop.fit

    def watched(session: Any) -> Any:
        began = time.perf_counter()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            fitted = plain(session)
            found["seconds"] = time.perf_counter() - began
        found["events"] = [(event.key, event.self_cpu_time_total / 1e6) for event in profiler.key_averages()]
        return fitted

    with tempfile.TemporaryDirectory() as place:
        bench = Bench(case, Path(place), False, rows)
        loop.fit = watched
        try:
            lora = {"rank": 16, "alpha": 32, "dropout": 0.05}
            own = {case.technique: lora} if "lora" in case.technique else {}
            tunesmith.train(
                bench.own, task=case.task, technique=case.technique, train=bench.files["rows"], eval=bench.files["eval"], batch_size=case.batch_size,
                max_length=case.max_length, learning_rate=case.learning_rate, dtype="bfloat16" if case.bf16 else "auto", epochs=1,
                output=Path(place) / "run", doctor=False, device="cpu", training={"log_every": 50},
                **{name: options for name, options in OPTIONS.items() if name == case.task}, **own,
            )  # fmt: skip
        finally:
            loop.fit = plain
    sums: Counter[str] = Counter()
    for name, seconds in found["events"]:
        sums[kind_of(name) if name.startswith("aten::") else PYTHON] += seconds
    sums[PYTHON] += max(0.0, found["seconds"] - sum(sums.values()))
    largest = sorted(found["events"], key=lambda pair: -pair[1])[:12]
    return {
        "what": case.what, "seconds": found["seconds"], "shares": {kind: value / found["seconds"] for kind, value in sums.most_common()},
        "largest": [{"operation": name, "share": seconds / found["seconds"]} for name, seconds in largest],
    }  # fmt: skip


def main() -> None:
    """Profile the cases and store their shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="a,b,c,d")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "where_time_goes.json")
    given = parser.parse_args()
    from tunesmith.console import quiet_libraries, set_verbosity
    from tunesmith.evaluation import cost

    set_verbosity(-1)
    quiet_libraries()
    found = {}
    for name in given.cases.split(","):
        case = next(each for each in CASES if each.name == name)
        found[name] = profiled(case, given.rows)
        shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in found[name]["shares"].items())
        print(f"{name}  {shares}", flush=True)
    content = {"cases": found, "versions": cost.versions(), "hardware": cost.hardware()}
    given.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
