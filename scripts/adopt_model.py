"""Rule adopt_model: take a model folder of the user's as it is."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ModelConfig
    from factfinding.files import write_json
    from factfinding.model.source import describe

    model = job.config("model", ModelConfig)
    write_json(
        describe(Path(model.folder), kind="folder", allow_pickle=model.allow_pickle), job.output.source
    )
