"""Rule neuron_effects_shard (P3.2): the effect of every neuron of some lookup layers on every known fact."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, NeuronsConfig
    from factfinding.data.facts import read_facts
    from factfinding.experiments.neuron_effects.effects import (
        ask_facts,
        engine_of,
        facts_table,
        neuron_effects,
        shard_layers,
    )
    from factfinding.files import read_json, write_table
    from factfinding.methods.circuit import AT_NAME, read_circuit
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("neurons", NeuronsConfig)
    source, circuit = read_json(job.input.source), read_circuit(job.input.circuit)
    anatomy, recall = load_source(source, compute, job.log), read_table(job.input.recall)
    asked = ask_facts(
        anatomy,
        read_facts(job.files["facts"]),
        recall,
        subjects=section.subjects,
        first=section.first,
        known_only=section.subjects == "known",
        seed=section.seed,
        batch_size=compute.batch_size,
    )
    lookup = circuit.lookup if circuit.lookup_at == AT_NAME else None
    layers = shard_layers(lookup, int(job.wildcards.shard), section.shards)
    used = asked.filter("used")
    job.progress(f"{used.height} facts of {used['subject'].n_unique()} subjects, layers {layers}")
    sweep = neuron_effects(
        anatomy,
        used,
        recall if section.subjects == "all" else recall.filter("known"),
        layers,
        engine=engine_of(anatomy, section.engine, section.products),
        draws=section.draws,
        tolerance=section.tolerance,
        model=source["digest"],
        folder=Path(snakemake.params.shards),
        twin_rows=section.twin_rows,
        batch_size=compute.batch_size,
        seed=section.seed,
        log=job.log,
        progress=lambda done, total: job.log(f"{done} of {total} effects"),
    )
    write_table(sweep.table, job.output.effects)
    write_table(sweep.twin, job.output.twin)
    write_table(facts_table(asked), job.output.facts)
