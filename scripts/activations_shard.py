"""Rule activations_shard: run the model over a share of one condition's prompts, into finished shards."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.digest import code_digest
    from factfinding.engine import capture as capturing
    from factfinding.files import read_json
    from factfinding.model.source import load_source
    from factfinding.store import Source
    from factfinding.tables import read_table

    compute, settings = job.given.compute, job.given.activations
    source, prompts = read_json(job.input.source), read_table(job.input.prompts)
    anatomy = load_source(source, compute, job.log)
    library = Path(capturing.__file__)
    written = capturing.capture(
        anatomy,
        prompts,
        capturing.wanted_datasets(settings.datasets, job.given.circuit.lookup),
        Path(job.output.listing),
        source=Source(
            model=source["digest"],
            revision=source["revision"] or "",
            dtype=compute.dtype,
            condition=job.wildcards.condition,
            code=code_digest(library, root=library.parents[2]),
            stored=settings.stored,
        ),
        shards=Path(snakemake.params.shards),
        batch_size=compute.batch_size,
        shard_rows=256,
        attributes={"model_id": source["id"] or source["kind"], "bos_token_id": str(anatomy.bos_token_id)},
        log=job.progress,
        share=(int(job.wildcards.shard), settings.shards),
    )
    job.log(f"{written} prompts went through the model")
