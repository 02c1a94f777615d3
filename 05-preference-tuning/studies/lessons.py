"""Imported first by every study: puts the lessons on Python's path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import installed  # noqa: F401
