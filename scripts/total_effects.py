"""Rule total_effects (P2.7): every node replaced at every position, and how much can be ablated at the name."""

from job import Job

with Job(snakemake) as job:
    from factfinding.analysis.groups import chosen
    from factfinding.analysis.readers import load_readers
    from factfinding.analysis.scan import circuit_scan
    from factfinding.analysis.total_effects import residual_patching, sample, total_effects
    from factfinding.config import ComputeConfig, InterventionsConfig
    from factfinding.files import read_json, read_table, write_table
    from factfinding.model.source import load_source

    compute, section = job.config("compute", ComputeConfig), job.config("interventions", InterventionsConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    candidates = read_table(job.input.candidates)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    drawn = sample(
        prompts, candidates, athletes=section.node_athletes, draws=section.draws, seed=section.seed
    )
    job.progress(f"{anatomy.n_layers * (anatomy.n_heads + 2)} nodes of {len(drawn.rows)} athletes")
    options = {
        "batch_size": min(compute.batch_size, 32),
        "seed": section.seed,
    }  # 32 prompts: 1,000 rows and more
    write_table(total_effects(anatomy, drawn, **options), job.output.total)
    write_table(residual_patching(anatomy, drawn, **options), job.output.residual)
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
