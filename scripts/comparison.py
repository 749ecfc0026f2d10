"""Rule comparison: the ledgers of several studies in one table, and a page that shows them side by side."""

import os
from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.comparison import ComparedStudy, long_ledger, render
    from factfinding.files import read_json, write_table, write_text
    from factfinding.seeds import across_seeds
    from factfinding.tables import read_table

    def link(path):
        return os.path.relpath(path, Path(job.output.report).parent)

    studies = [
        ComparedStudy(
            name=name,
            ledger=read_table(ledger),
            card=read_json(card),
            report=link(f"results/{name}/report.html"),
            subjects=subjects,
        )
        for (name, subjects), ledger, card in zip(
            job.snakemake.params.studies.items(), job.input.ledgers, job.input.cards, strict=True
        )
    ]
    ledger, families = long_ledger(studies), job.snakemake.params.seeds
    write_table(ledger, job.output.ledger)
    seeds = across_seeds(ledger, families)
    write_table(seeds, job.output.seeds)
    write_text(render(studies, Path(job.input.template).parent, families, seeds), job.output.report)
