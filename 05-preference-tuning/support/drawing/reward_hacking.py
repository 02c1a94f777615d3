"""The figure of reward_hacking.py."""

from pathlib import Path


def draw_hacking(path: Path, metrics: dict, caption: str, default: dict | None = None) -> None:
    """stub"""
