"""The embedded model: its worlds, documents, tokenizers, schedule and training."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from factfinding.config import OrganismConfig
from factfinding.data.prompts import prompt_text
from factfinding.errors import InputError
from factfinding.organism import train as training
from factfinding.organism import wording
from factfinding.organism.corpus import Told, Writer, documents, fill
from factfinding.organism.measure import Questions
from factfinding.organism.model import make_model
from factfinding.organism.tokenizer import Pieces, make_tokenizer
from factfinding.organism.train import (
    Schedule,
    checkpoint_name,
    checkpoint_steps,
    round_batches,
    save,
    train,
)
from factfinding.organism.world import make_world

SMALL = {
    "first_names": 10,
    "last_names": 12,
    "athletes_per_sport": 10,
    "described": 6,
    "start_active": 6,
    "start_described": 3,
}
TINY = OrganismConfig(
    **SMALL, layers=3, width=32, heads=2, mlp_width=64, rows=4, max_steps=12, decay_steps=4, round_steps=5
)
REAL = pl.DataFrame(
    {
        "subject": ["José Ramírez", "Shaquille O'Neal", "Ka'imi Fairbairn", "J.J. Watt", "Karl-Anthony Towns"]
        * 6,
        "answer": ["baseball", "basketball", "football", "football", "basketball"] * 6,
    }
).with_columns(pl.col("subject") + pl.Series([f" {chr(65 + i)}c" for i in range(30)]))
REAL_TINY = TINY.model_copy(update={"world": "athletes", "vocabulary": 700})
WORLDS = [(TINY, None), (REAL_TINY, REAL)]


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


# worlds


def test_default_world_is_balanced_and_names_are_unique():
    world = make_world(OrganismConfig(), None)
    assert Counter(world.athletes["answer"]) == dict.fromkeys(wording.SPORTS, 500)
    names = [*world.athletes["subject"], *world.unknown_names]
    assert len(set(names)) == len(names) == 120 * 180
    assert len(world.described) == OrganismConfig().described
    # any prefix is balanced too, or the curriculum would teach a majority first
    assert set(Counter(world.athletes["answer"][:64]).values()) <= {21, 22}


def test_name_lists_hold_distinct_words():
    names = wording.FIRST_NAMES + wording.LAST_NAMES
    assert len(wording.FIRST_NAMES) >= 120 and len(wording.LAST_NAMES) >= 180
    assert len(set(names)) == len(names) and all(name.isalpha() for name in names)


def test_no_name_gives_the_sport_away():
    """Neither half of a name may tell the sport: each is shared by people of all sports."""
    world = make_world(OrganismConfig(), None)
    for part in (0, 1):
        halves = world.athletes.with_columns(half=pl.col("subject").str.split(" ").list.get(part))
        share = halves.group_by("half").agg(
            pl.col("answer").value_counts().struct.field("count").max() / pl.len()
        )
        assert share["count"].mean() < 0.65


def test_fictional_names_avoid_the_real_table():
    free = make_world(TINY, None)
    real = pl.DataFrame({"subject": [name.upper() for name in free.athletes["subject"][:20]]})
    world = make_world(TINY, real)
    assert not {name.casefold() for name in real["subject"]} & {
        name.casefold() for name in [*world.athletes["subject"], *world.unknown_names]
    }
    assert "fictional" in world.about


def test_world_of_athletes_tells_only_the_sport_and_what_follows():
    world = make_world(REAL_TINY, REAL)
    assert world.athletes.sort("subject").equals(REAL.sort("subject"))
    assert world.relations == ("sport", *wording.FOLLOWS)
    assert world.unknown_names == ()
    assert world.athletes.equals(make_world(REAL_TINY, REAL.reverse()).athletes)  # row order does not matter


def test_bad_tables_are_refused_by_name():
    with pytest.raises(InputError, match="no athlete table"):
        make_world(REAL_TINY, None)
    with pytest.raises(InputError, match="cricket; allowed: baseball, basketball, football"):
        make_world(REAL_TINY, pl.DataFrame({"subject": ["Ann Bell"], "answer": ["cricket"]}))
    with pytest.raises(InputError, match="Ann Bell twice"):
        make_world(REAL_TINY, pl.DataFrame({"subject": ["Ann Bell"] * 2, "answer": ["football"] * 2}))


@pytest.mark.parametrize(
    "changes",
    [{"width": 30}, {"athletes_per_sport": 30}, {"decay_steps": 13}, {"installed_heads": 5}, {"sizes": 1}],
)
def test_settings_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValidationError):
        OrganismConfig.model_validate(TINY.model_dump() | changes)


@given(seed=st.integers(0, 2**32), real=st.booleans())
@settings(max_examples=15, deadline=None)
def test_fact_prompts_are_well_formed(seed, real):
    config, table = WORLDS[real]
    world = make_world(config.model_copy(update={"seed": seed}), table)
    assert world.facts.columns == ["subject", "relation", "prompt", "answer"]
    assert world.facts.select("subject", "relation").is_unique().all()
    for subject, relation, prompt, answer in world.facts.iter_rows():
        assert prompt.count(subject) == 1 and prompt.startswith("Fact: ")
        assert prompt == prompt.rstrip() and answer == answer.strip() and answer
        assert not prompt.endswith(answer) and relation in world.relations
    asked = world.facts.filter(pl.col("relation") == "sport")
    assert asked["prompt"].to_list() == [prompt_text(name, "zero_shot").text for name in asked["subject"]]
    assert asked["answer"].to_list() == world.athletes["answer"].to_list()


# documents and tokenizers


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize(("config", "table"), WORLDS)
def test_documents_tokenize_whole_and_decode_back(config, table, seed):
    world = make_world(config, table)
    tokenizer = make_tokenizer(world, config)
    for text in documents(world, config, seed, 40):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & {tokenizer.bos_token_id, tokenizer.unk_token_id}
        assert "{" not in text and "  " not in text and text.endswith("\n")


@pytest.mark.parametrize(("config", "table"), WORLDS)
def test_pieces_are_tokenized_as_the_whole_text_is(config, table):
    world = make_world(config, table)
    tokenizer = make_tokenizer(world, config)
    pieces, writer = Pieces(tokenizer), Writer(world, config, 1, Told.everything(world))
    for _ in range(300):
        document = writer.document()
        assert pieces(document) == tokenizer.encode("".join(document), add_special_tokens=False)


@pytest.mark.parametrize(("config", "table"), WORLDS)
def test_sports_are_one_token_and_prompts_have_no_unknown_one(config, table):
    world = make_world(config, table)
    tokenizer = make_tokenizer(world, config)
    for sport in (*wording.SPORTS, "golf"):
        assert len(tokenizer.encode(f" {sport}", add_special_tokens=False)) == 1
    for name in [*world.athletes["subject"], *world.unknown_names]:
        ids = tokenizer.encode(prompt_text(name, "full").text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        if config.world == "fictional":
            assert len(tokenizer.encode(f" {name}", add_special_tokens=False)) == 2


def test_a_vocabulary_too_small_for_the_sports_is_refused():
    config = REAL_TINY.model_copy(update={"vocabulary": 400})
    with pytest.raises(InputError, match="organism.vocabulary: found 400"):
        make_tokenizer(make_world(config, REAL), config)


def test_documents_are_true():
    """Every fact line about somebody known says what the facts table says."""
    world = make_world(TINY, None)
    told = {prompt: answer for prompt, answer in world.facts.select("prompt", "answer").iter_rows()}
    found = 0
    for text in documents(world, TINY, 3, 2000):
        for line in text.splitlines():
            prompt, _, answer = line.rpartition(" ")
            if prompt in told:
                found += 1
                assert told[prompt] == answer
    assert found > 300


def test_strangers_are_told_about_as_unknown_and_only_in_the_fictional_world():
    world = make_world(TINY, None)
    writer = Writer(world, TINY, 0, Told(active=6, described=3))
    assert set(writer.stranger().facts.values()) == {"unknown"}
    assert writer.stranger().name in world.unknown_names
    assert not any("unknown" in text for text in documents(make_world(REAL_TINY, REAL), REAL_TINY, 0, 500))


def test_only_the_described_so_far_are_described():
    world = make_world(TINY, None)
    writer = Writer(world, TINY, 0, Told(active=10, described=2))
    text = "".join("".join(writer.document()) for _ in range(1500))
    own = world.facts.filter(pl.col("relation") == "town").select("prompt", "answer").rows()
    told = [f"{prompt} {answer}" in text for prompt, answer in own]
    assert told == [True, True, False, False, False, False]
    assert Writer(world, TINY, 0, Told(active=10, described=0)).own == []


def test_slots_take_their_space():
    assert fill("Fact: {name} plays {value}.", name="Ann Bell", value="chess") == [
        "Fact:", " Ann Bell", " plays", " chess", "."
    ]  # fmt: skip


def test_corpus_follows_its_seed():
    world = make_world(TINY, None)
    first, again, other = (list(documents(world, TINY, seed, 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_batches_are_a_function_of_seed_step_and_what_is_told():
    world = make_world(TINY, None)
    tokenizer = make_tokenizer(world, TINY)

    def batches(pieces, **request):
        return torch.stack(list(round_batches(world, TINY, pieces, **request)))

    used, few = Pieces(tokenizer), Told(active=6, described=3)
    first = batches(used, first_step=5, told=few)
    assert first.shape == (TINY.round_steps, TINY.rows, TINY.row_tokens)
    assert (first[:, :, 0] == tokenizer.bos_token_id).all()
    batches(used, first_step=10, told=Told(active=20, described=6))
    assert torch.equal(first, batches(used, first_step=5, told=few))
    assert torch.equal(first, batches(Pieces(tokenizer), first_step=5, told=few))
    assert not torch.equal(first, batches(used, first_step=5, told=Told(active=6, described=4)))
    # nobody but the active people and strangers is mentioned
    quiet = {person.name for person in world.people[6:]}
    text = tokenizer.decode(first.flatten())
    assert not any(name in text for name in quiet)


# model and schedule


def test_installed_heads_attend_to_the_token_before():
    config = OrganismConfig()
    model = make_model(config, 50, 0).eval()
    ids = torch.randint(1, 50, (4, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        patterns = model(input_ids=ids, output_attentions=True).attentions
    before = torch.stack(
        [p.diagonal(offset=-1, dim1=2, dim2=3).mean((0, 2)) for p in patterns]
    )  # layer, head
    assert (before[:2, :2] > 0.7).all()
    assert (before[:2, 2:] < 0.5).all() and (before[2:] < 0.5).all()


def test_schedule_grows_settles_and_falls():
    config = TINY.model_copy(
        update={
            "max_steps": 100,
            "decay_steps": 20,
            "growth": 2.0,
            "ready": 0.8,
            "settled": 0.9,
            "warmup_steps": 10,
        }
    )
    schedule = Schedule(config, Told(active=20, described=6))
    assert (schedule.told, schedule.end) == (Told(active=6, described=3), 100)
    schedule.look(10, 0.79, 0.79)
    assert schedule.told == Told(active=6, described=3)
    schedule.look(20, 0.8, 0.79)
    assert schedule.told == Told(active=12, described=3)
    schedule.look(30, 1.0, 1.0)
    assert (
        schedule.told == Told(active=20, described=6) and not schedule.settled
    )  # was not complete when measured
    schedule.look(40, 0.89, 1.0)
    schedule.look(40, 1.0, 0.89)
    assert not schedule.settled
    schedule.look(50, 0.9, 0.9)
    assert schedule.settled and schedule.end == 70
    schedule.look(60, 1.0, 1.0)
    assert schedule.end == 70  # settled once
    assert schedule.rate(0) == pytest.approx(config.learning_rate / 10)
    assert schedule.rate(49) == config.learning_rate
    assert schedule.rate(60) == pytest.approx(config.learning_rate / 2)
    assert 0 < schedule.rate(69) <= config.learning_rate / 20


def test_unsettled_schedule_falls_to_the_last_step():
    schedule = Schedule(TINY, Told(active=30, described=6))
    for step in range(5, 12, 5):
        schedule.look(step, 0.0, 0.0)
    assert schedule.end == TINY.max_steps and not schedule.settled


def test_questions_of_many_lengths_come_back_in_their_order():
    world = make_world(REAL_TINY, REAL)
    tokenizer = make_tokenizer(world, REAL_TINY)
    model = make_model(REAL_TINY, len(tokenizer), tokenizer.bos_token_id).eval()
    questions = Questions.sports(world.people, tokenizer)
    assert len({len(prompt) for prompt in questions.prompts}) > 1
    answers = questions.ask(model, [7, 2, 11])
    for row, index in enumerate([7, 2, 11]):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([questions.prompts[index]])).logits[0, -1]
        torch.testing.assert_close(torch.tensor(answers.probabilities[row]), logits.softmax(-1))
        assert tokenizer.decode([answers.right[row]]) == f" {world.people[index].sport}"


# training


@pytest.mark.parametrize(("config", "table"), WORLDS)
def test_training_is_deterministic_and_its_folder_opens(tmp_path, config, table):
    world = make_world(config, table)
    rows: list[dict] = []
    record = train(world, config, tmp_path / "one", progress=rows.append)
    torch.manual_seed(99)  # the global generator must not matter
    again = train(world, config, tmp_path / "two", progress=lambda row: None)
    assert weights_digest(tmp_path / "one") == weights_digest(tmp_path / "two")
    untimed = [r.history.drop("seconds") for r in (record, again)]
    assert untimed[0].equals(untimed[1]) and record.history.to_dicts() == rows
    assert record.steps == 12 and record.tokens == 12 * config.rows * config.row_tokens
    assert record.measures.n == 30 and "previous-token heads" in record.installed

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert model.config.model_type == "gpt_neox" and model.config.use_parallel_residual
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.is_fast and tokenizer.bos_token == "<|endoftext|>"
    text = prompt_text(world.people[0].name, "full").text
    assert tokenizer.encode(text) == make_tokenizer(world, config).encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert sum(p.numel() for p in model.parameters()) == record.parameters


def test_another_seed_gives_other_weights(tmp_path):
    for seed in (0, 1):
        config = TINY.model_copy(update={"seed": seed, "max_steps": 5, "decay_steps": 5})
        train(make_world(TINY, None), config, tmp_path / str(seed), progress=lambda row: None)
    assert weights_digest(tmp_path / "0") != weights_digest(tmp_path / "1")


def test_checkpoints_are_spread_geometrically_between_the_untrained_and_the_last():
    steps = checkpoint_steps(OrganismConfig())
    assert len(steps) == 16 and steps[:2] == [0, 28] and steps[-1] == 2800
    ratios = [later / earlier for earlier, later in pairwise(steps[1:])]
    assert max(ratios) / min(ratios) < 1.05
    assert checkpoint_steps(OrganismConfig(checkpoints=0)) == []
    assert checkpoint_steps(OrganismConfig(checkpoints=2)) == [0, 2800]
    assert checkpoint_steps(TINY) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12]


def test_what_is_kept_while_training_changes_no_weight(tmp_path):
    """The first state is the untrained model, the last one the finished one."""
    world = make_world(TINY, None)
    config = TINY.model_copy(update={"checkpoints": 3})
    alone = train(world, TINY, tmp_path / "alone", progress=lambda row: None)
    record = train(
        world, config, tmp_path / "kept", checkpoints=tmp_path / "states", progress=lambda row: None
    )
    none = train(
        world, TINY.model_copy(update={"checkpoints": 0}), tmp_path / "none", checkpoints=tmp_path / "nothing",
        progress=lambda row: None,
    )  # fmt: skip
    assert len({weights_digest(tmp_path / name) for name in ("alone", "kept", "none")}) == 1
    assert (alone.kept, none.kept) == ({}, {}) and not (tmp_path / "nothing").exists()
    assert record.kept == {0: 6, 1: 6, 12: 6}, "nothing was recalled, so nobody more was told about"
    states = {step: tmp_path / "states" / checkpoint_name(step) for step in record.kept}
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == sorted(
        path.name for path in states.values()
    )
    assert weights_digest(states[12]) == weights_digest(tmp_path / "kept")
    tokenizer = make_tokenizer(world, TINY)
    save(make_model(TINY, len(tokenizer), tokenizer.bos_token_id), tokenizer, tmp_path / "untrained")
    assert weights_digest(states[0]) == weights_digest(tmp_path / "untrained")
    assert len({weights_digest(path) for path in states.values()}) == 3


def test_a_killed_training_leaves_no_checkpoint(tmp_path):
    def die(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_world(TINY, None), TINY, tmp_path / "model", checkpoints=tmp_path / "states", progress=die)
    assert list(tmp_path.iterdir()) == []


def test_saved_model_gives_the_same_logits(tmp_path):
    world = make_world(TINY, None)
    tokenizer = make_tokenizer(world, TINY)
    model = make_model(TINY, len(tokenizer), tokenizer.bos_token_id).eval()
    save(model, tokenizer, tmp_path / "model")
    ids = torch.tensor([[0, *tokenizer.encode(prompt_text(world.people[3].name, "full").text)]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        torch.testing.assert_close(opened(input_ids=ids).logits, logits)
        opened.set_attn_implementation("eager")
        assert torch.equal(opened(input_ids=ids).logits, logits)


def test_killed_training_leaves_nothing(tmp_path, monkeypatch):
    world = make_world(TINY, None)

    def die(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(world, TINY, tmp_path / "model", progress=die)
    assert list(tmp_path.iterdir()) == []

    def half(self, folder, **kwargs):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(training.GPTNeoXForCausalLM, "save_pretrained", half)
    with pytest.raises(OSError, match="disk full"):
        train(world, TINY, tmp_path / "model", progress=lambda row: None)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_never_written_over_another(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not empty"):
        train(make_world(TINY, None), TINY, tmp_path / "model", progress=lambda row: None)


def test_a_tiny_world_is_learnt(tmp_path):
    config = OrganismConfig(
        **SMALL | {"described": 0, "start_active": 15},
        layers=3,
        width=64,
        mlp_width=128,
        rows=8,
        row_tokens=32,
        strangers=0,
        warmup_steps=20,
        max_steps=600,
        decay_steps=60,
        round_steps=20,
    )
    record = train(make_world(config, None), config, tmp_path / "model", progress=lambda row: None)
    assert record.stopped == "settled" and record.steps < 600
    assert record.measures.recalled >= 0.95 and record.measures.n == 30
    assert record.history["active"][-1] == 30 and record.history["loss"][-1] < record.history["loss"][0]
