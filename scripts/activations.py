"""Rule activations: one file of what the jobs of activations_shard have left. No model is loaded."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.store import assemble
    from factfinding.tables import read_table

    assemble(
        Path(job.output.activations),
        read_table(job.input.prompts),
        [Path(listing) for listing in job.input.listings],
        shards=Path(snakemake.params.shards),
        log=job.progress,
    )
