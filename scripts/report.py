"""Rule report: one page that shows a study's figures and says what they show."""

import os
from pathlib import Path

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.closer import people_of
    from factfinding.data.dossier import read_dossiers
    from factfinding.data.example import example_of
    from factfinding.files import read_json, write_text
    from factfinding.report import Picture, Results, Table, render
    from factfinding.tables import read_table

    def link(path):
        return os.path.relpath(path, Path(job.output.report).parent)

    pictures = {
        Path(svg).stem: Picture(svg=Path(svg).read_text(encoding="utf-8"), links=(link(svg), link(png)))
        for svg, png in zip(job.input.svg, job.input.png, strict=True)
    }
    tables = {Path(path).stem: Table(frame=read_table(path), link=link(path)) for path in job.input.tables}
    folder, prompts = Path(read_json(job.input.source)["folder"]), read_table(job.input.prompts)
    people = people_of(
        prompts,
        {name: table.frame for name, table in tables.items()},
        pl.scan_parquet(job.input.neurons),
        read_table(job.input.probed),
        folder,
        fact=job.given.relation.answer,
        most=job.given.report.subjects,
    )
    results = Results(
        study=job.wildcards.study,
        ledger=Table(frame=read_table(job.input.ledger), link=link(job.input.ledger)),
        tables=tables,
        pictures=pictures,
        card=read_json(job.input.card),
        provenance=[read_json(path) for path in job.input.provenance],
        planted=read_json(job.input.planted),
        example=example_of(prompts, tables["recall"].frame, folder),
        dossiers=read_dossiers(Path(job.input.dossiers)),
        people=people,
        relation=job.given.relation,
    )
    write_text(render(results, Path(job.input.template).parent), job.output.report)
