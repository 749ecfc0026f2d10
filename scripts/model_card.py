"""Rule model_card: what the model is, and whether its circuit is one that the study can be asked about."""

from job import Job

with Job(snakemake) as job:
    from factfinding.files import read_json, write_json
    from factfinding.methods.card import probe_summary, recall_rows
    from factfinding.model.anatomy import check_guards, shape_summary
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, source = job.given.compute, read_json(job.input.source)
    anatomy = load_source(source, compute, job.log)
    card = {
        "source": source,
        "shape": shape_summary(anatomy),
        "bos_token": anatomy.tokenizer.convert_ids_to_tokens(anatomy.bos_token_id),
        "guards": check_guards(anatomy),
        "compute": {key: getattr(compute, key) for key in ("dtype", "device", "batch_size")},
        "recall": recall_rows(read_table(job.input.summary)),
        "answer_at_final_name": probe_summary(read_table(job.input.probes)),
        "circuit_checks": read_table(job.input.checks).to_dicts(),
        "training": read_json(job.input.training) if job.input.get("training") else None,
    }
    write_json(card, job.output.card)
