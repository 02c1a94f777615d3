"""What several test files need."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "05-preference-tuning"


def run_script(
    name: str, *flags: object, cwd: Path, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    """Run `python 05-preference-tuning/NAME.py FLAGS` in `cwd`, without network (conftest.py)."""
    command = [sys.executable, *python, str(SCRIPTS / f"{name}.py"), *map(str, flags)]
    return subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
