"""Rule circuit: which layers and heads do what, by the configuration or by the tables."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import CircuitConfig
    from factfinding.files import write_table
    from factfinding.methods.proposal import circuit_table, propose, settle, write_circuit
    from factfinding.tables import read_table

    tables = (read_table(path) for path in (job.input.scan, job.input.residual, job.input.total))
    circuit = settle(propose(*tables), **job.config("circuit", CircuitConfig).model_dump())
    write_circuit(circuit, job.output.circuit)
    write_table(circuit_table(circuit), job.output.table)
    for row in circuit.evidence:
        job.log(
            row.claim if row.value is None else f"{row.claim}: {row.value:.3f} (threshold {row.threshold})"
        )
    job.progress(
        f"looked up at: {circuit.lookup_at}; attention {circuit.concatenate} concatenates, MLPs {circuit.lookup} look up, "
        f"{', '.join(circuit.extract) or 'no head'} extract(s); fixed: {', '.join(circuit.fixed) or 'nothing'}"
    )
