"""Rule neuron_effects (P3.2): the shards put together; how alike facts are, and how concentrated their neurons."""

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.config import NeuronsConfig
    from factfinding.files import write_table
    from factfinding.methods.effect_concentration import effect_concentration
    from factfinding.methods.fact_correlations import fact_correlations, merged, neuron_pairs
    from factfinding.tables import read_table

    seed = job.config("neurons", NeuronsConfig).seed
    facts = [read_table(path) for path in job.input.facts]
    effects = merged([read_table(path) for path in job.input.effects], facts)
    twins = [read_table(path) for path in job.input.twins]
    write_table(effects, job.output.effects)
    write_table(
        pl.concat([twin.with_columns(shard=pl.lit(i)) for i, twin in enumerate(twins)]), job.output.twin
    )
    write_table(facts[0], job.output.facts)
    correlations = fact_correlations(effects, seed=seed)
    write_table(correlations, job.output.correlations)
    write_table(neuron_pairs(effects, correlations), job.output.pairs)
    write_table(effect_concentration(effects, seed=seed), job.output.concentration)
    job.progress(f"{effects.height:,} effects on {facts[0]['used'].sum()} facts")
