"""Imported first by every script: says in one line which package is not installed, and what to do.

It imports nothing of the lab, which may be what is missing.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("numpy", "matplotlib", "torch", "transformers", "datasets", "trl", "peft", "accelerate")
lab = Path(__file__).resolve().parents[1]
missing = [name for name in (*NEEDED, "common") if find_spec(name) is None]
if missing:
    activate = lab / ".venv" / "bin" / "activate"
    todo = f'cd {lab} && pip install -e ".[hf,training]"'
    if activate.is_file() and Path(sys.prefix).resolve() != activate.parents[1].resolve():
        todo = f"source {activate}"
    print(f"error: no package {missing[0]} in this Python; type: {todo}", file=sys.stderr)
    sys.exit(2)
