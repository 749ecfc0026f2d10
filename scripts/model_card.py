"""Rule model_card: what the model is, and whether its circuit is one that the study can be asked about."""

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.config import ComputeConfig, RecallConfig
    from factfinding.files import read_json, write_json, write_table
    from factfinding.methods.card import probe_summary, recall_rows
    from factfinding.methods.checks import circuit_checks
    from factfinding.model.anatomy import check_guards, shape_summary
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, settings = job.config("compute", ComputeConfig), job.config("recall", RecallConfig)
    source, recall = read_json(job.input.source), read_table(job.input.recall)
    anatomy = load_source(source, compute, job.log)
    prompts = read_table(job.input.prompts).join(
        recall.filter("known").select("athlete"), on="athlete", how="semi"
    )
    job.progress(f"checking the circuit on {prompts.height} known athletes")
    checks = circuit_checks(
        anatomy,
        prompts,
        read_table(job.input.candidates),
        batch_size=compute.batch_size,
        seed=settings.seed,
    )
    write_table(checks, job.output.checks)
    card = {
        "source": source,
        "shape": shape_summary(anatomy),
        "bos_token": anatomy.tokenizer.convert_ids_to_tokens(anatomy.bos_token_id),
        "guards": check_guards(anatomy),
        "compute": compute.model_dump(mode="json"),
        "recall": recall_rows(read_table(job.input.summary)),
        "sport_at_final_name": probe_summary(read_table(job.input.probes)),
        "circuit_checks": checks.to_dicts(),
        "training": read_json(job.input.training) if job.input.get("training") else None,
    }
    write_json(card, job.output.card)
    for row in checks.filter(~pl.col("check").str.starts_with("donor")).iter_rows(named=True):
        job.progress(
            f"{row['check']}: {row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
        )
