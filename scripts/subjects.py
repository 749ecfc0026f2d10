"""Rule subjects: read and check the subject table."""

from job import Job

with Job(snakemake) as job:
    from factfinding.data.prompts import check_shot
    from factfinding.data.subjects import read_subjects
    from factfinding.errors import naming
    from factfinding.files import write_table
    from factfinding.relation import STUDY

    settings, relation, path = job.given.subjects, job.given.relation, job.files["table"]
    table = read_subjects(
        path,
        # the embedded model's own people have the study's columns, whatever the page calls them
        relation=STUDY if settings.table is None else relation,
        two_answers=settings.two_answers,
        min_per_answer=settings.min_per_answer,
        few=settings.few,
    )
    with naming(path):
        check_shot(table.frame["subject"], table.frame["answer"].unique(maintain_order=True), relation)
    job.progress(f"{table.frame.height} {relation.subjects} from {path}; {table.notes.height} notes")
    for note in table.notes.iter_rows(named=True):
        about = [
            note["subject"],
            note["answer"] and f"({note['answer']})",
            note["rows"] and f"rows {note['rows']}",
        ]
        job.log(": ".join(filter(None, [" ".join(filter(None, about)), note["reason"], note["action"]])))
    write_table(table.frame, job.output.subjects)
    write_table(table.notes, job.output.notes)
