"""Rule adopt_checkpoints: take folders of the user's as checkpoints of the study's model."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.files import read_json
    from factfinding.model.checkpoints import write_checkpoints
    from factfinding.model.source import describe
    from factfinding.model.weights import check_finite
    from factfinding.model_folder import check_model_folder
    from factfinding.steps import step_in

    pickle, sources = job.given.model.allow_pickle, {}
    for name in job.given.emergence.folders:
        folder = Path(name)
        check_model_folder(folder, allow_pickle=pickle)
        job.log(f"{name}: {check_finite(folder)} weights, all finite")
        sources[step_in(name)] = describe(
            folder,
            kind="folder",
            allow_pickle=pickle,
            bos=job.given.model.bos,
            template=snakemake.params.template,
        )
    sources[snakemake.params.last_step] = read_json(job.input.source)
    write_checkpoints(sources, job.output.checkpoints)
