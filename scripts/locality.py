"""Rule locality: the residual stream with the whole context and with the last tokens alone (post 5)."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, LocalityConfig
    from factfinding.data.texts import read_corpus, read_texts, strings_of
    from factfinding.files import read_json, write_table
    from factfinding.methods.locality import locality, usable
    from factfinding.model.source import load_source

    compute, section = job.config("compute", ComputeConfig), job.config("locality", LocalityConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    own = section.texts is None and section.dataset is None and job.input.texts.endswith("corpus.txt")
    field = "text" if section.dataset is not None else section.field
    texts = read_corpus(job.input.texts) if own else read_texts(job.input.texts, field)
    longest = getattr(anatomy.model.config, "max_position_embeddings", None) or section.tokens + 1
    tokens = min(section.tokens, longest - 1)
    strings = strings_of(
        texts,
        anatomy.tokenizer,
        tokens=tokens,
        wanted=section.strings,
        seed=section.seed,
        where=job.input.texts,
    )
    left_out = sorted(set(section.k) - set(usable(section.k, tokens, section.positions)))
    job.progress(f"{len(strings)} strings of {tokens} tokens; no room for k = {left_out}")
    tables = locality(
        anatomy,
        strings,
        ks=section.k,
        positions=section.positions,
        batch_size=compute.batch_size,
        seed=section.seed,
    )
    write_table(tables.locality, job.output.locality)
    write_table(tables.tokens, job.output.tokens)
    write_table(tables.values, job.output.values)
