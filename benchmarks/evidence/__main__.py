"""`python benchmarks/evidence`: the comparison of everything, on the demo world or on a real checkpoint.

All that is learned and drawn is kept in runs/evidence, so a stopped run goes on; the numbers are added to
benchmarks/results/evidence.json, and the report is written anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

# benchmarks are plain modules beside each other; this one is a package among them
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from evidence.command import main  # noqa: E402

if __name__ == "__main__":
    main()
