"""The GPU rows: searches on the card beside its ceilings, cuVS and FAISS, all in one run.

    python -m benchmarks.gpu [--small] [--only exact,few,filtered,types,segments,loading,graph]
                             [--json FILE]

Every ceiling is measured in the run that uses it; recall stands beside every speed; what a missing
library left out is named. `--small` takes sizes that also finish on a card that is only rehearsed.
"""

from typing import Any

from benchmarks import gpu_calls, gpu_rows
from benchmarks.gpu_report import Sections, run

LARGE: dict[str, Any] = {
    "exact": {"rows": 1_000_000, "dim": 768, "queries": 10_000},
    "few": {"rows": 2_000_000, "dim": 768},
    "filtered": {"rows": 1_000_000, "dim": 768, "queries": 4_096},
    "types": {"rows": 1_000_000, "dim": 256, "queries": 4_096},
    "segments": {"count": 1_000, "each": 10_000, "dim": 128, "queries": 1_024},
    "loading": {"rows": 1_000_000, "dim": 768},
    "graph": {"rows": 1_000_000, "dim": 128, "queries": 10_000},
    "ceilings": {},
}
SMALL: dict[str, Any] = {
    "exact": {"rows": 2_000, "dim": 64, "queries": 16},
    "few": {"rows": 1_000, "dim": 64},
    "filtered": {"rows": 2_000, "dim": 64, "queries": 16},
    "types": {"rows": 1_000, "dim": 64, "queries": 8},
    "segments": {"count": 4, "each": 200, "dim": 16, "queries": 4},
    "loading": {"rows": 20_000, "dim": 64},
    "graph": {"rows": 2_000, "dim": 16, "queries": 8},
    "ceilings": {"size": 64, "copied": 1 << 16},
}
SECTIONS: Sections = {
    "exact": gpu_rows.exact_batch,
    "few": gpu_rows.small_batches,
    "filtered": gpu_rows.filtered,
    "types": gpu_rows.types_of_rows,
    "segments": gpu_calls.many_segments,
    "loading": gpu_calls.loading,
    "graph": gpu_calls.graph,
}

if __name__ == "__main__":
    run(__doc__, SECTIONS, large=LARGE, small=SMALL)
