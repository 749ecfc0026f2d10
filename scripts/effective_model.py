"""Rule effective_model (P2.9): the circuit as tables over tokens, a few MLPs and a probe, and how often it is right."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, InterventionsConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.effective import save_none
    from factfinding.methods.effective_table import effective_model
    from factfinding.methods.groups import chosen
    from factfinding.methods.proposal import read_circuit
    from factfinding.methods.readers import load_readers
    from factfinding.methods.simplified import parts_of
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("interventions", InterventionsConfig)
    anatomy, recall = load_source(read_json(job.input.source), compute, job.log), read_table(job.input.recall)
    prompts = {
        name: chosen(read_table(job.input[name]), recall, section.athletes) for name in ("full", "name_only")
    }
    result = effective_model(
        anatomy,
        prompts,
        load_readers(job.input.readers),
        parts_of(read_circuit(job.input.circuit), anatomy),
        batch_size=compute.batch_size,
        seed=section.seed,
    )
    write_table(result.accuracy, job.output.accuracy)
    write_table(result.confusion, job.output.confusion)
    if result.model is None:
        reason = "a study in which no lookup at the name was found, or too few athletes are known"
        save_none(job.output.model, reason)
        job.progress(f"no effective model: this is {reason}")
    else:
        result.model.save(job.output.model)
        for row in result.accuracy.iter_rows(named=True):
            job.progress(
                f"{row['model']}, names of {row['n_name_tokens']} tokens: {row['accuracy']:.3f} of {row['n']}"
            )
