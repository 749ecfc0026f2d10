"""Rule probe_patching (P2.11): are the directions that probes read the ones that the model reads?"""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, InterventionsConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.groups import chosen
    from factfinding.methods.head_reader import head_readers
    from factfinding.methods.patched import sample
    from factfinding.methods.probe_patching import probe_patching
    from factfinding.methods.proposal import read_circuit
    from factfinding.methods.readers import load_readers
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("interventions", InterventionsConfig)
    anatomy, circuit = (
        load_source(read_json(job.input.source), compute, job.log),
        read_circuit(job.input.circuit),
    )
    candidates, logistic = read_table(job.input.candidates), load_readers(job.input.readers)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    heads = head_readers(
        anatomy, circuit.extract, candidates, prompts, logistic, batch_size=compute.batch_size
    )
    drawn = sample(prompts, candidates, athletes=section.patched_athletes, draws=1, seed=section.seed)
    table = probe_patching(
        anatomy, drawn, [logistic, *heads], batch_size=compute.batch_size, seed=section.seed
    )
    write_table(table, job.output.patching)
    job.progress(f"{table['change'].n_unique()} changes in {len(drawn.rows)} athletes")
