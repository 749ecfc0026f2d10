"""Rule adopt_model: take a model folder of the user's as it is."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.files import write_json
    from factfinding.model.source import describe
    from factfinding.model.weights import check_finite
    from factfinding.model_folder import check_model_folder

    model = job.given.model
    folder = Path(model.folder)
    check_model_folder(folder, allow_pickle=model.allow_pickle)
    job.log(f"{check_finite(folder)} weights, all finite")
    source = describe(
        folder,
        kind="folder",
        allow_pickle=model.allow_pickle,
        bos=model.bos,
        template=snakemake.params.template,
    )
    write_json(source, job.output.source)
