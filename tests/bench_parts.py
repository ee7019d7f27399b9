"""Lets tests import what lies in bench/, as its scripts do."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"
if str(BENCH) not in sys.path:
    sys.path.append(str(BENCH))
