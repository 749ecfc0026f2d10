"""Rule prompts: prompts of every condition, and the answer tokens."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.data.prompts import (
        CONDITIONS,
        candidates,
        check_beginnings,
        check_template,
        in_parts,
        prompt_table,
    )
    from factfinding.data.tokens import check_prompts
    from factfinding.errors import naming
    from factfinding.files import read_json, write_table
    from factfinding.model.anatomy import bos_token_id
    from factfinding.model.source import check_unchanged
    from factfinding.model.tokenizer import read_tokenizer
    from factfinding.model_folder import sizes_of
    from factfinding.tables import read_table

    source, subjects = read_json(job.input.source), read_table(job.input.subjects)
    check_unchanged(source)
    tokenizer = read_tokenizer(source["folder"])
    answers = subjects["answer"].unique().to_list()
    with naming(f"{job.input.subjects}; model {source['folder']}"):
        relation = job.given.relation
        check_template(tokenizer, relation, "config.relation")
        if source["bos"] == "none":
            check_beginnings(tokenizer, relation, "config.relation")
        bos = bos_token_id(tokenizer, source["bos"], source.get("template", ""))
        tables = {name: prompt_table(subjects, tokenizer, bos, name, relation) for name in CONDITIONS}
        check_prompts(tables, tokenizer, positions=sizes_of(Path(source["folder"])).positions)
        answers = candidates(answers, tables["full"]["text"][0], tokenizer)
    write_table(answers, job.output.candidates)
    if parts := in_parts(answers):
        job.progress(f"answers of several tokens, asked by their first: {parts}")
    for name, table in tables.items():
        write_table(table, job.output[name])
    counts = tables["full"]["n_name_tokens"].value_counts().sort("n_name_tokens")
    job.progress("name tokens: " + ", ".join(f"{count} with {n}" for n, count in counts.rows()))
