"""Rule total_effects_shard (P2.7): the effect of every node of some layers at every position."""

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.engine.certified import against_values, certified
    from factfinding.experiments.total_effects.effects import measured, parts_of, screen_of
    from factfinding.files import write_table
    from factfinding.methods.groups import known_prompts
    from factfinding.model.source import anatomy_of

    inputs, section, size = job.inputs, job.given.interventions, job.given.compute.batch_size
    anatomy, prompts = anatomy_of(inputs), known_prompts(inputs, section.subjects)
    parts = parts_of(prompts, inputs.candidates, section, batch_size=size)
    nodes = anatomy.n_layers * (anatomy.n_heads + 2)
    told = " and of ".join(f"{len(part.drawn.rows)} subjects {part.name}" for part in parts)
    job.progress(f"{nodes} nodes of {told}; job {job.wildcards.shard} of {section.shards}")
    screen = screen_of(anatomy, parts, section, job.progress)
    engine = certified(anatomy, job.given.compute, seed=section.seed)
    which = {"shard": int(job.wildcards.shard), "shards": section.shards}
    frames = [measured(anatomy, part, engine=engine, screen=screen, **which) for part in parts]
    write_table(pl.concat(frames), job.output.effects)
    write_table(against_values("total_effects_twin", engine, job.log), job.output.twin)
