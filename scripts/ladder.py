"""Rule ladder (P2.8): the circuit simplified step by step, and what of the sport is left at each layer."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, InterventionsConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.groups import chosen
    from factfinding.methods.head_reader import head_readers
    from factfinding.methods.ladder import ladder_table
    from factfinding.methods.proposal import read_circuit
    from factfinding.methods.readers import load_readers
    from factfinding.methods.simplified import parts_of
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("interventions", InterventionsConfig)
    anatomy, circuit = (
        load_source(read_json(job.input.source), compute, job.log),
        read_circuit(job.input.circuit),
    )
    recall, logistic = read_table(job.input.recall), load_readers(job.input.readers)
    prompts = {
        name: chosen(read_table(job.input[name]), recall, section.athletes) for name in ("full", "name_only")
    }
    heads = head_readers(
        anatomy, circuit.extract, read_table(job.input.candidates), prompts["full"], logistic,
        batch_size=compute.batch_size,
    )  # fmt: skip
    table = ladder_table(
        anatomy,
        prompts,
        [logistic, *heads],
        parts_of(circuit, anatomy),
        draws=section.draws,
        batch_size=compute.batch_size,
        seed=section.seed,
    )
    write_table(table, job.output.ladder)
    job.progress(f"{table['step'].n_unique()} steps on {prompts['full'].height} athletes")
