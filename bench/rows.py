"""Rows of the Python benchmarks: where they were measured, and the CSV files that keep them."""

from __future__ import annotations

import csv
import datetime
import subprocess
from pathlib import Path

import torch


def stamp(threads: int) -> dict:
    """The columns that say of what a row is: threads, torch, date, commit."""
    return {"threads": threads, "torch": torch.__version__, "date": datetime.date.today().isoformat(), "commit": commit()}


def commit() -> str:
    """Of the tree that this file is in, with a + where it was changed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changed else "")


def append_rows(rows: list[dict], path: Path | None) -> None:
    """Adds rows to a CSV file, which gets a header when it is new; None keeps nothing."""
    if path is None:
        return
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
