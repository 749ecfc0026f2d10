"""Rule prompts: prompts of every condition, and the answer tokens."""

from job import Job

with Job(snakemake) as job:
    from transformers import AutoTokenizer

    from factfinding.data.prompts import CONDITIONS, candidates, prompt_table
    from factfinding.files import read_json, write_table
    from factfinding.model.anatomy import bos_token_id
    from factfinding.tables import read_table

    source = read_json(job.input.source)
    tokenizer = AutoTokenizer.from_pretrained(
        source["folder"], local_files_only=True, trust_remote_code=False
    )
    subjects = read_table(job.input.subjects)
    bos, relation = bos_token_id(tokenizer, source["bos"]), job.given.relation
    tables = {name: prompt_table(subjects, tokenizer, bos, name, relation) for name in CONDITIONS}
    answers = subjects["answer"].unique().to_list()
    write_table(candidates(answers, tables["full"]["text"][0], tokenizer), job.output.candidates)
    for name, table in tables.items():
        write_table(table, job.output[name])
    counts = tables["full"]["n_name_tokens"].value_counts().sort("n_name_tokens")
    job.progress("name tokens: " + ", ".join(f"{count} with {n}" for n, count in counts.rows()))
