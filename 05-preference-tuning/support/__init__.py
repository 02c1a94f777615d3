"""What a reader of a section need not see: training loops, evaluation, own pairs, drawing.

Whatever a script imports first comes from here; so a package that is missing is said here, in one
line, before anything else is imported.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
missing = [name for name in ("numpy", "matplotlib", "common") if find_spec(name) is None]
if missing:
    activate = ROOT / ".venv" / "bin" / "activate"
    todo = f'cd {ROOT} && pip install -e ".[hf,training]"'
    if activate.is_file() and Path(sys.prefix).resolve() != activate.parents[1].resolve():
        todo = f"source {activate}"
    print(f"error: no package {missing[0]} in this Python; type: {todo}", file=sys.stderr)
    sys.exit(2)
