"""Rule recall (P2.1): which sports the model knows."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, RecallConfig
    from factfinding.engine.answers import answers
    from factfinding.files import read_json, write_table
    from factfinding.methods.recall import AnswerScores, recall_summary, recall_table
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, settings = job.config("compute", ComputeConfig), job.config("recall", RecallConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    candidates, full = read_table(job.input.candidates), read_table(job.input.full)
    scores = {}
    for condition, prompts in (("full", full), ("zero_shot", read_table(job.input.zero_shot))):
        said = answers(anatomy, prompts, candidates["token_id"].to_list(), batch_size=compute.batch_size)
        top = [anatomy.tokenizer.decode([token]) for token in said.top_token_id]
        scores[condition] = AnswerScores(logits=said.logits, logp=said.logp, top_token=top)
    recall = recall_table(full, candidates, scores)
    write_table(recall, job.output.recall)
    write_table(recall_summary(recall, seed=settings.seed), job.output.summary)
    job.progress(f"{recall['known'].sum()} of {recall.height} athletes known")
