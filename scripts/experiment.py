"""Rule of any experiment: its `compute` (scripts/factfinding/experiments/<rule>/compute.py) makes what the rule puts out."""

from importlib import import_module

from job import Job

with Job(snakemake) as job:
    experiment = import_module(f"factfinding.experiments.{snakemake.rule}.compute")
    job.write(experiment.compute(job.inputs, job.given, job.progress))
