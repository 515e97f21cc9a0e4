"""Data of the studies: facts, tasks, requests, and what the papers have."""

from pathlib import Path

DATA_FOLDER = Path(__file__).parent
