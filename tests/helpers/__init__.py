"""What tests of several folders share: models, tables, Snakemake, browsers, faults. tests/README.md has the list."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""
