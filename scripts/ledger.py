"""Rule ledger: each claim of the study, judged on this study's tables."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.declarations import declarations
    from factfinding.files import write_table
    from factfinding.ledger import judge
    from factfinding.tables import read_table

    tables = {Path(path).stem: read_table(path) for path in job.input.tables}
    found = judge(declarations().spoken(job.given.relation), tables)
    write_table(found, job.output.ledger)
    for verdict, n in found["verdict"].value_counts(sort=True).rows():
        job.progress(f"{n} of {found.height} claims {verdict}")
