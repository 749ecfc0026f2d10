"""Rule comparison: the ledgers of several studies in one table, and a page that shows them side by side."""

import os
from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.comparison import ComparedStudy, Said, long_ledger, render
    from factfinding.conclusions import conclusions
    from factfinding.config import RelationConfig
    from factfinding.declarations import declarations
    from factfinding.files import read_json, write_table, write_text
    from factfinding.relation import spoken
    from factfinding.seeds import across_seeds
    from factfinding.tables import read_table

    def link(path):
        return os.path.relpath(path, Path(job.output.report).parent)

    def said(study, relation):
        """A study's conclusions in its own words."""
        inside = f"results/{study}/"
        paths = [path for path in job.input.tables if path.startswith(inside)]
        found = conclusions({Path(path).stem: read_table(path) for path in paths})
        titles = {name: one.title for name, one in declarations().spoken(relation).experiments.items()}
        return tuple(
            Said(about=one.about, title=titles[one.about], sentence=spoken(one.sentence, relation))
            for one in found
        )

    relations = {name: RelationConfig(**words) for name, words in job.snakemake.params.studies.items()}
    studies = [
        ComparedStudy(
            name=name,
            ledger=read_table(ledger),
            card=read_json(card),
            report=link(f"results/{name}/report.html"),
            subjects=relation.subjects,
            said=said(name, relation),
        )
        for (name, relation), ledger, card in zip(
            relations.items(), job.input.ledgers, job.input.cards, strict=True
        )
    ]
    ledger, families = long_ledger(studies), job.snakemake.params.seeds
    write_table(ledger, job.output.ledger)
    seeds = across_seeds(ledger, families)
    write_table(seeds, job.output.seeds)
    write_text(render(studies, Path(job.input.template).parent, families, seeds), job.output.report)
