"""Rule train_organism: make a world, train the embedded model on it, and save both."""

import os
import shutil
from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.files import write_csv, write_json, write_table, write_text
    from factfinding.model.checkpoints import write_checkpoints
    from factfinding.model.source import describe
    from factfinding.organism.corpus import documents
    from factfinding.organism.record import as_json, progress_line
    from factfinding.organism.train import checkpoint_name, train
    from factfinding.organism.world import make_world
    from factfinding.relation import STUDY
    from factfinding.tables import read_table

    settings = job.given.organism
    subjects = read_table(job.input.subjects) if job.input.get("subjects") else None
    world = make_world(settings, subjects)
    folder = Path(job.output.source).parent
    fresh, states = folder / ".training", folder / ".checkpoints"
    checkpoints = Path(job.output.checkpoints).parent
    for left in (fresh, states, checkpoints):
        shutil.rmtree(left, ignore_errors=True)
    record = train(
        world, settings, fresh, checkpoints=states, progress=lambda row: job.progress(progress_line(row))
    )
    for path in fresh.iterdir():
        os.replace(path, folder / path.name)
    fresh.rmdir()
    if record.kept:
        os.replace(states, checkpoints)
    columns = {"subject": STUDY.subject, "answer": STUDY.answer}
    write_csv(world.athletes.rename(columns), job.output.subjects)
    write_csv(world.facts, job.output.facts)
    write_text(
        world.about + "\n\n" + "".join(documents(world, settings, settings.seed, 2000)), job.output.corpus
    )
    write_table(record.history, job.output.training)
    write_json(as_json(record), job.output.record)
    write_json(describe(folder, kind="organism"), job.output.source)
    kept = {step: describe(checkpoints / checkpoint_name(step), kind="organism") for step in record.kept}
    told = [person.name for person in world.people]
    write_checkpoints(kept, job.output.checkpoints, told=told, active=record.kept)
