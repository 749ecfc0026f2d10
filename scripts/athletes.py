"""Rule athletes: read and check the athlete table."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import AthletesConfig
    from factfinding.data.athletes import read_athletes
    from factfinding.files import write_table

    settings = job.config("athletes", AthletesConfig)
    table = read_athletes(
        job.input.table, two_sports=settings.two_sports, min_per_sport=settings.min_per_sport
    )
    job.progress(f"{table.frame.height} athletes from {job.input.table}; {table.notes.height} notes")
    for note in table.notes.iter_rows(named=True):
        job.log(
            f"{note['athlete']} ({note['sport']}), rows {note['rows']}: {note['reason']}: {note['action']}"
        )
    write_table(table.frame, job.output.athletes)
    write_table(table.notes, job.output.notes)
