"""Rule figure: draw one figure from its tables."""

from importlib import import_module

from job import Job

with Job(snakemake) as job:
    from factfinding.figures.style import save
    from factfinding.tables import read_table

    module = import_module(f"factfinding.figures.{job.wildcards.figure}")
    tables = {name: read_table(path) for name, path in job.input.items()}
    save(module.draw(**tables), job.output.svg, job.output.png)
