"""Rule ledger: each claim of the study, judged on this study's tables."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.files import read_table, write_table
    from factfinding.ledger import judge, read_claims

    claims = read_claims(job.input.claims)
    tables = {Path(path).stem: read_table(path) for path in job.input.tables}
    found = judge(claims, tables)
    write_table(found, job.output.ledger)
    for verdict, n in found["verdict"].value_counts(sort=True).rows():
        job.progress(f"{n} of {found.height} claims {verdict}")
