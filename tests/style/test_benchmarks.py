"""The benchmarks: operations counted from shapes, rows kept as they come, jobs read from what Snakemake prints."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import operations
from beside import copy_of
from ours import Fast
from page import DOCUMENT, Section
from peers import HuggingFaceHooks
from run import LLAMA_SECTIONS, LLAMA_SHAPES, NEOX_SHAPES, PARTS, SECTIONS, parts
from study import FIRST, finished_steps, stop, study_of, write_subjects
from throughput import Throughput, group, shortened
from workload import SHAPES, Shape, build

from factfinding.config import Config, validate
from factfinding.engine.difference import Difference

SMALL = Shape(layers=5, heads=4, d_model=32, d_mlp=128, swept=(1,), scale=0.2, vocabulary=300)
GATED = replace(SMALL, kind="llama", kv_heads=2, d_mlp=96)


@pytest.fixture(scope="module")
def small():
    return Throughput(build(SMALL), SMALL, rows=64, rounds=1, batches=1)


@pytest.fixture(scope="module")
def gated():
    return Throughput(build(GATED), GATED, rows=64, rounds=1, batches=1)


@pytest.fixture
def page(tmp_path):
    return tmp_path / "page.md"


@pytest.mark.parametrize("shape", ("small", "gated"))
@pytest.mark.parametrize("layer", range(SMALL.layers))
def test_operations_counted_from_shapes_are_those_that_run(request, shape, layer):
    """One neuron more adds so many patches' operations; what all patches share cancels."""
    model = request.getfixturevalue(shape)
    way = Fast(Difference(model.anatomy), rows=64)

    def counted(neurons: int) -> int:
        with FlopCounterMode(display=False) as counter:
            way.neuron_sweep(model.work(layer, neurons=neurons, draws=4))
        return counter.get_total_flops() - donors(4)

    def donors(draws: int) -> int:
        with FlopCounterMode(display=False) as counter:
            model.work(layer, neurons=1, draws=draws)
        return counter.get_total_flops()

    assert counted(3) - counted(2) == 4 * model.operations(layer)


def test_operations_of_a_product_are_two_for_each_multiply_add():
    with FlopCounterMode(display=False) as counter:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert operations.product(3, 5, 7) == counter.get_total_flops() == 210


def test_a_deeper_layer_costs_less(small):
    costs = [small.operations(layer) for layer in range(SMALL.layers)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == operations.product(1, SMALL.d_model, SMALL.vocabulary + 1)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNN", "matrix products"),
        ("void magma_sgemmEx_kernel<float, __nv_bfloat16, float, false>", "matrix products"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor<float>>", "element-wise"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "element-wise"),
        ("triton_red_fused_add_mean_mul_pow_0", "element-wise"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy_vectorized<>", "cat"),
        ("Memcpy DtoD (Device -> Device)", "other"),
        ("aten::addmm", "matrix products"),
        ("aten::mul_", "element-wise"),
        ("aten::cat", "cat"),
        ("aten::index_select", "other"),
    ],
)
def test_kernels_are_grouped_by_what_they_do(kernel, kind):
    assert group(kernel) == kind


def test_a_kernels_name_fits_a_cell():
    name = shortened("void at::native::(anonymous namespace)::some_kernel<a || b>" + "x" * 200)
    assert name.startswith("some_kernel<") and "|" not in name and len(name) == 70


def test_rows_are_in_the_page_as_they_come_and_the_rest_stays(page, capsys):
    before = DOCUMENT.read_text(encoding="utf-8")
    section = Section(page, "sweep", ["GPU: none"])
    row = section.table("Seconds", ("way", "seconds"), note="A note.")
    row("curves", "15.8")
    assert "| curves | 15.8 |" in page.read_text(encoding="utf-8")
    assert "15.8" in capsys.readouterr().out
    row("every draw", "450")
    section.say("stopped early")
    text = page.read_text(encoding="utf-8")
    assert "| curves | 15.8 |\n| every draw | 450 |" in text and "- stopped early" in text
    start, end = "<!-- sweep -->", "<!-- end of sweep -->"
    assert text.partition(start)[0] == before.partition(start)[0]
    assert text.partition(end)[2] == before.partition(end)[2]
    Section(page, "checks", ["later"])
    assert "| every draw | 450 |" in page.read_text(encoding="utf-8")


def test_an_error_is_told_in_the_page_and_the_rows_before_it_stay(page):
    section = Section(page, "peers", ["GPU: none"])
    row = section.table("Tools", ("way", "ms"))
    with section.attempt("nnsight"):
        row("hooks", "1")
        raise RuntimeError("no such module\nand more")
    text = page.read_text(encoding="utf-8")
    assert section.failed
    assert "| hooks | 1 |" in text and "nnsight: stopped by RuntimeError: no such module\n" in text


def test_a_page_without_the_parts_marks_is_refused(page):
    page.write_text("# Something else\n")
    with pytest.raises(ValueError, match="found no part <!-- sweep -->"):
        Section(page, "sweep", [])
    assert page.read_text() == "# Something else\n"


def test_the_page_has_a_place_for_every_part():
    text = DOCUMENT.read_text(encoding="utf-8")
    parts_of = {sections.get(part, part) for part in PARTS for sections in (SECTIONS, LLAMA_SECTIONS)}
    for name in ("rules", "compare", *parts_of):
        assert text.count(f"<!-- {name} -->\n") == text.count(f"\n<!-- end of {name} -->") == 1, name


def test_every_shape_is_offered_and_llamas_are_gated():
    assert {name: SHAPES[name].gated for name in SHAPES} == dict.fromkeys(NEOX_SHAPES, False) | dict.fromkeys(
        LLAMA_SHAPES, True
    )


def test_plain_hooks_patch_the_same_neurons_as_ours(gated):
    """Gated ones too: what the projection down reads."""
    work = gated.work(1, neurons=3, draws=4)
    hooks = HuggingFaceHooks(gated.anatomy.model, 8).neuron_sweep(work)
    ours = Fast(Difference(gated.anatomy), rows=64).neuron_sweep(work)
    assert ours.abs().max() > 1e-3 and torch.allclose(hooks, ours, atol=2e-5)


def test_parts_are_taken_in_order_and_unknown_ones_refused():
    assert parts("rules,sweep") == ["rules", "sweep"]
    with pytest.raises(Exception, match="'sweeps'; allowed: sweep, checks"):
        parts("sweep,sweeps")


PRINTED = """[Thu Nov 27 05:14:57 2026]
localrule all:
    jobid: 0
[Thu Nov 27 05:14:58 2026]
rule recall:
    input: a.json, b.csv
    output: results/x/tables/recall.csv, results/x/provenance/recall.json
    log: results/x/logs/recall.log
    jobid: 3
    benchmark: results/x/benchmarks/recall.tsv
    wildcards: study=x
rule neuron_effects_shard:
    output: results/x/neuron_effects/0_effects.parquet
    log: results/x/logs/neuron_effects_shard_0.log
    jobid: 5
    wildcards: study=x, shard=0
rule readers:
    output: results/x/readers.safetensors
    log: results/x/logs/readers.log
    jobid: 6
Finished jobid: 5 (Rule: neuron_effects_shard)
Error in rule readers:
    message: None
    jobid: 6
Finished jobid: 3 (Rule: recall)
""".splitlines()


def test_jobs_are_read_from_what_snakemake_prints():
    steps = list(finished_steps(enumerate(PRINTED)))
    found = [(step.name, step.started, end, how) for step, end, how in steps]
    assert found == [
        ("neuron_effects_shard_0", 11, 20, "well"),
        ("readers", 16, 21, "failed"),
        ("recall", 4, 24, "well"),
        ("all", 1, 24, "stopped"),
    ]
    assert not steps[3][0].outputs, "a job that only asks for others makes nothing"
    stopped = [(step.name, how) for step, _, how in finished_steps(enumerate(PRINTED[:-1]))]
    assert stopped[2:] == [("all", "stopped"), ("recall", "stopped")]
    assert steps[2][0].outputs == ["results/x/tables/recall.csv", "results/x/provenance/recall.json"]
    assert steps[2][0].said["benchmark"] == "results/x/benchmarks/recall.tsv"


@pytest.mark.parametrize("name", SHAPES)
def test_the_study_of_each_shape_is_a_valid_configuration(name):
    shape = SHAPES[name]
    study = validate(study_of(shape, "cpu"), Config, "config")
    assert study.circuit.lookup == (shape.swept[0], shape.swept[-1])
    assert all(int(head[1:].split("H")[0]) < shape.layers for head in study.circuit.extract)


def test_the_studys_subjects_are_of_all_answers_and_among_them_is_the_first(tmp_path):
    write_subjects(tmp_path / "subjects.csv", 33)
    with (tmp_path / "subjects.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len({row["athlete"] for row in rows}) == len(rows) == 33
    answers = [row["sport"] for row in rows]
    assert {answers.count(answer) for answer in set(answers)} == {11}
    assert FIRST in {row["athlete"] for row in rows}


def test_a_study_that_takes_too_long_is_ended_with_its_jobs():
    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen(
        [sys.executable, "-c", sleeper], start_new_session=True, stdout=subprocess.PIPE
    )
    start = time.monotonic()
    stop(process)
    assert process.poll() is not None
    assert process.stdout.read() == b"", "the pipe is closed: no child holds it"
    assert time.monotonic() - start < 50


def test_checks_hold_every_way_against_float64_and_leave_the_model(small, page):
    section = Section(page, "checks", [])
    small.checks(section)
    rank = {way: float(correlation) for way, *_, correlation in section.tables[0].rows}
    assert [way.partition(",")[0] for way in rank] == ["difference"] * 3 + ["values"] * 3
    assert rank["difference, full"] > 0.99999 and rank["difference, bfloat16"] > 0.99
    assert rank["values, bfloat16"] < 0.9
    assert small.anatomy.dtype == torch.float32 and small.anatomy.model.dtype == torch.float32


def test_a_tool_has_the_model_for_itself(small):
    model = small.anatomy.model
    with copy_of(model, double=True) as copied:
        copied.get_output_embeddings().weight.zero_()
        assert copied.dtype == torch.float64
    assert model.dtype == torch.float32
    assert bool(model.get_output_embeddings().weight.any())


@pytest.mark.benchmarks
def test_every_line_runs_on_a_tiny_shape(page):
    """Two minutes on two cores."""
    done = subprocess.run(
        [
            sys.executable, "benchmarks/run.py", "--here", "--device", "cpu", "--shape", "tiny", "--only", ",".join(PARTS),
            "--rounds", "1", "--names", "33", "--until", "recall", "--threads", "1", "--out", str(page),
        ],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    text = page.read_text(encoding="utf-8")
    for start in (
        "| difference, bfloat16 products, curves to 0.01 | 16,384 |",
        "| difference, tf32 products, every draw | 256 |",
        "| difference, full | 1,024 |",
        "| values, bfloat16 | 1,024 |",
        "| matrix products |",
        "| Hugging Face + hooks, float32 | 128 |",
        "| difference, full products, curves | 16,384 |",
        "| adopt_model |",
        "| recall |",
    ):
        assert start in text, start
    assert "| failed |" not in text and "| stopped |" not in text and "stopped by" not in text
