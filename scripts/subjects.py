"""Rule subjects: read and check the subject table."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import SubjectsConfig
    from factfinding.data.subjects import read_subjects
    from factfinding.files import write_table

    settings = job.config("subjects", SubjectsConfig)
    path = job.files["table"]
    table = read_subjects(path, two_answers=settings.two_answers, min_per_answer=settings.min_per_answer)
    job.progress(f"{table.frame.height} subjects from {path}; {table.notes.height} notes")
    for note in table.notes.iter_rows(named=True):
        job.log(
            f"{note['subject']} ({note['answer']}), rows {note['rows']}: {note['reason']}: {note['action']}"
        )
    write_table(table.frame, job.output.subjects)
    write_table(table.notes, job.output.notes)
