"""Rule download_checkpoints: fetch further revisions of the study's model from the hub. Those that are there are kept."""

from pathlib import Path

from job import Job

with Job(snakemake, network=True) as job:
    from factfinding.files import read_json
    from factfinding.model.checkpoints import write_checkpoints
    from factfinding.model.source import describe, download
    from factfinding.model.weights import check_finite
    from factfinding.model_folder import check_model_folder
    from factfinding.steps import step_in

    model, sources = job.given.model, {}
    for revision in job.given.emergence.revisions:
        job.progress(f"downloading {model.id} at {revision}")
        folder = Path(job.output.checkpoints).parent / revision
        download(model.id, revision, folder, allow_pickle=model.allow_pickle)
        check_model_folder(folder, allow_pickle=model.allow_pickle)
        job.log(f"{revision}: {check_finite(folder)} weights, all finite")
        sources[step_in(revision)] = describe(
            folder,
            kind="hub",
            id=model.id,
            revision=revision,
            allow_pickle=model.allow_pickle,
            bos=model.bos,
            template=snakemake.params.template,
        )
    sources[snakemake.params.last_step] = read_json(job.input.source)
    write_checkpoints(sources, job.output.checkpoints)
