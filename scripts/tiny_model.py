"""Rule tiny_model: a model of random weights, made on the spot, on which every rule runs in seconds."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.files import write_json
    from factfinding.model.source import describe
    from factfinding.model.tiny import save_tiny_model
    from factfinding.tables import read_table

    model = job.given.model
    folder = Path(job.output.source).parent / "weights"
    save_tiny_model(folder, read_table(job.input.subjects), model.family)
    write_json(
        describe(folder, kind="tiny", bos=model.bos, template=snakemake.params.template), job.output.source
    )
