"""Rule download_model: fetch a pinned revision from the hub."""

from pathlib import Path

from job import Job

with Job(snakemake, network=True) as job:
    from factfinding.files import write_json
    from factfinding.model.source import describe, download
    from factfinding.model.weights import check_finite
    from factfinding.model_folder import check_model_folder

    model = job.given.model
    job.progress(f"downloading {model.id} at {model.revision}")
    folder = Path(job.output.source).parent / "weights"
    download(model.id, model.revision, folder, allow_pickle=model.allow_pickle)
    check_model_folder(folder, allow_pickle=model.allow_pickle)
    job.log(f"{check_finite(folder)} weights, all finite")
    source = describe(
        folder,
        kind="hub",
        id=model.id,
        revision=model.revision,
        allow_pickle=model.allow_pickle,
        bos=model.bos,
        template=snakemake.params.template,
    )
    write_json(source, job.output.source)
