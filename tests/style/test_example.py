"""docs/example.py, run as it stands on the finished small study, which takes the place of the default one."""

from __future__ import annotations

import os
import subprocess
import sys

from helpers import ROOT


def test_the_example_runs_on_a_finished_study(study, tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("organism", "small"):  # the study's own files name its folder
        (tmp_path / "results" / name).symlink_to(study.folder / "results/small")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/example.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of 18 subjects known" in done.stdout  # half of 36
    assert done.stdout.count("of 36 right") == 2
    assert (tmp_path / "recall.png").stat().st_size > 10_000
