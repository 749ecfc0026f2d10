"""Rule readers: linear probes of the unchanged residual stream, by which simplified runs are read."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ProbesConfig
    from factfinding.files import read_json
    from factfinding.methods.readers import fit_readers, save_readers
    from factfinding.store import Activations
    from factfinding.tables import read_table

    section = job.config("probes", ProbesConfig)
    recall = read_table(job.input.recall)
    athletes = recall if job.settings("interventions")["athletes"] == "all" else recall.filter("known")
    names = athletes["athlete"].to_list()
    with Activations(
        job.input.activations, model=read_json(job.input.source)["digest"], condition="full"
    ) as file:
        row_of = {name: row for row, name in enumerate(file.athletes()["athlete"])}
        rows = [row_of[name] for name in names]
        layers = [layer for layer in file.layers("resid@final_name") if layer >= 0]
        readers = fit_readers(
            (file.layer("resid@final_name", layer)[rows] for layer in layers),
            names,
            athletes["sport"].to_list(),
            n_folds=section.n_folds,
            regularisation=section.regularisation,
            max_iter=section.max_iter,
            tolerance=section.tolerance,
            seed=section.seed,
        )
    save_readers(readers, job.output.readers)
    job.progress(f"readers of {readers.n_layers} layers, fitted on {len(readers.athletes)} athletes")
