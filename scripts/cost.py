"""Rule cost: what each study of the configuration will take, as a table on the terminal."""

import os
import subprocess
import sys
import time
from pathlib import Path

from job import Job

FASTEST_PROCESSOR = 1e13
"""Operations a second of float32 products that only a GPU reaches."""


def products(seconds: float = 1.0) -> float:
    """Operations a second of a large product in float32, the best of what fits into about a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 8192 if device.type == "cuda" else 1024
    x = torch.randn(size, size, device=device)
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        (x @ x)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def start() -> float:
    """Seconds until a job has imported what a rule that runs the model imports."""
    begun = time.perf_counter()
    library = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(
        [sys.executable, "-c", "import factfinding.model.anatomy, factfinding.stats"], env=library, check=True
    )
    return time.perf_counter() - begun


with Job(snakemake) as job:
    import torch

    from factfinding.config import Config, validate
    from factfinding.cost import Rates, estimate, measured_seconds, page, study_of

    given = snakemake.resources
    rate = 1e9 * given.gflops if given.gflops > 0 else products()
    rates = Rates(
        start=given.start if given.start > 0 else start(), products=rate, gpu=rate > FASTEST_PROCESSOR
    )
    for values, jobs in snakemake.params.studies:
        study = study_of(validate(values, Config, "config"))
        measured = measured_seconds(jobs, Path("results") / study.config.study)
        text = page(estimate(study, jobs, rates), study.config.study, rates, measured)
        job.log(text)
        print(text, flush=True)
