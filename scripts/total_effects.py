"""Rule total_effects (P2.7): every node replaced at every position, and how much can be ablated at the name."""

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.config import ComputeConfig, InterventionsConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.groups import CORRUPT, KINDS, chosen
    from factfinding.methods.patched import sample
    from factfinding.methods.readers import load_readers
    from factfinding.methods.residual_patching import residual_patching
    from factfinding.methods.scan import circuit_scan
    from factfinding.methods.total_effects import total_effects
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("interventions", InterventionsConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    candidates = read_table(job.input.candidates)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    drawing = {"draws": section.draws, "seed": section.seed}
    patched = sample(prompts, candidates, athletes=section.patched_athletes, **drawing)
    ablated = sample(prompts, candidates, athletes=section.node_athletes, **drawing)  # some of the same
    nodes = anatomy.n_layers * (anatomy.n_heads + 2)
    job.progress(f"{nodes} nodes of {len(patched.rows)} athletes patched, of {len(ablated.rows)} ablated")
    few = min(compute.batch_size, 32)  # four kinds of rows and more for each prompt
    kinds = [
        total_effects(anatomy, ablated, kinds=KINDS, batch_size=few, seed=section.seed),
        total_effects(anatomy, patched, kinds=[CORRUPT], batch_size=compute.batch_size, seed=section.seed),
    ]
    write_table(pl.concat(kinds), job.output.total)
    residual = residual_patching(anatomy, patched, batch_size=compute.batch_size, seed=section.seed)
    write_table(residual, job.output.residual)
    job.progress(f"borders of the circuit on {min(prompts.height, section.patched_athletes)} athletes")
    scan = circuit_scan(
        anatomy,
        prompts,
        candidates,
        load_readers(job.input.readers),
        athletes=section.patched_athletes,
        batch_size=compute.batch_size,
        seed=section.seed,
    )
    write_table(scan, job.output.scan)
