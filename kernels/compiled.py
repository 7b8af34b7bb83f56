"""`njit` for the kernels: their cached machine code is dropped when any file here changes."""

from pathlib import Path

from gpuvec.device.compiled import njit as njit
from gpuvec.device.compiled import use_fresh_code

use_fresh_code(Path(__file__).parent)
