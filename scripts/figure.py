"""Rule figure: draw one figure from its tables."""

from importlib import import_module

from job import Job

with Job(snakemake) as job:
    from factfinding.figures.style import save
    from factfinding.tables import read_table

    name, tables = job.wildcards.figure, {name: read_table(path) for name, path in job.input.items()}
    draw = getattr(import_module(snakemake.params.show), f"draw_{name}")
    save(draw(**tables, relation=job.given.relation), job.output.svg, job.output.png)
