"""launch.plan: what is read out of compiled programs, and targets by name.

Recorded text stands for the compilers, which the test environment does not have.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, OptimizerConfig
from cmgems_jax.errors import InputError
from cmgems_jax.plan import hlo, plan
from cmgems_jax.plan import targets as plan_targets

ROOT = Path(__file__).parents[2]
FIELDS = {
    *("target", "devices", "fits", "largest_batch_size", "attention", "compile_seconds"),
    *("seconds_per_step", "hours", "cycles", "collectives", "memory"),
}
MEMORY = {"state_bytes", "batch_bytes", "temporaries_bytes", "program_bytes", "device_bytes"}

# As libtpu and the CUDA plugin print programs, shortened.
TPU_TEXT = """HloModule jit__fun, is_scheduled=true, entry_computation_layout={(f32[8,8]{1,0:T(8,128)})->f32[8,8]{1,0:T(8,128)}}

%fused (p.1: bf16[8,256]) -> f32[8,256] {
  %p.1 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %tanh = f32[8,256]{1,0:T(8,128)} tanh(%p.1), backend_config={"estimated_cycles":"999"}
}

%body (arg: (s32[], f32[8,256])) -> (s32[], f32[8,256]) {
  %arg = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}) parameter(0)
  %gte = f32[8,256]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %fusion.1 = f32[8,256]{1,0:T(8,128)} fusion(%gte), kind=kOutput, calls=%fused, metadata={op_name="jit(_fun)/jvp(MaskedLM)/encoder/layers_1/intermediate/dot_general"}, backend_config={"window_config":{"estimated_cycles":"600"}}
  %splash_mha_fwd.7 = f32[8,256]{1,0} custom-call(%gte), custom_call_target="tpu_custom_call", metadata={op_name="jit(_fun)/transpose(jvp(MaskedLM))/encoder/layers_0/vmap(jit(f))/pallas_call"}, backend_config={"estimated_cycles":"50"}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}) tuple(%gte, %fusion.1)
}

%condition (arg.1: (s32[], f32[8,256])) -> pred[] {
  %arg.1 = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}) parameter(0)
  %gte.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %bound = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%gte.1, %bound), direction=LT
}

%easy (p.2: f32[4]) -> f32[4] {
  ROOT %sort.1 = f32[4]{0} sort(%p.2), metadata={op_name="jit(_fun)/masking/sort"}, backend_config={"estimated_cycles":"10"}
}

%hard (p.3: f32[4]) -> f32[4] {
  ROOT %sort.2 = f32[4]{0} sort(%p.3), metadata={op_name="jit(_fun)/masking/sort"}, backend_config={"estimated_cycles":"30"}
}

ENTRY %main.1 (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %cond = f32[4]{0} conditional(%p, %a, %a), true_computation=%easy, false_computation=%hard, metadata={op_name="jit(_fun)/masking/cond"}
  %loop = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}) while(%t), condition=%condition, body=%body
  %all-reduce = (f32[256,256]{1,0:T(8,128)S(1)}, f32[]{:T(128)}) all-reduce(%x, %y), channel_id=1, to_apply=%add, metadata={op_name="jit(_fun)/psum"}
  ROOT %mul = f32[4]{0} multiply(%a, %a), metadata={op_name="jit(_fun)/optimizer/mul"}, backend_config={"estimated_cycles":"7"}
}
"""  # noqa: E501
GPU_TEXT = """HloModule jit__fun

%gemm (p.1: bf16[64,32], p.2: bf16[32,16]) -> bf16[64,16] {
  %p.1 = bf16[64,32]{1,0} parameter(0)
  %p.2 = bf16[32,16]{1,0} parameter(1)
  ROOT %dot.1 = bf16[64,16]{1,0} dot(%p.1, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  %q = bf16[2,12,512,64]{3,2,1,0} parameter(2)
  %fusion = bf16[64,16]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm, metadata={op_name="jit(_fun)/jvp(MaskedLM)/transform/dot_general"}
  %cublas = (bf16[64,16]{1,0}, s8[1024]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %fmha = (bf16[2,12,512,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaScaleBiasSoftmax", metadata={op_name="jit(_fun)/jvp(MaskedLM)/encoder/layers_0/x"}, backend_config={"cudnn_fmha_backend_config":{"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","12","512","512"]}}}
  %all-reduce-start = f32[100]{0} all-reduce-start(%g), to_apply=%add
  ROOT %all-reduce-done = f32[100]{0} all-reduce-done(%all-reduce-start)
}
"""  # noqa: E501


def test_cycles_are_summed_by_part_with_loops_by_trips_and_the_dearer_branch():
    expected = {"feed-forward": 5 * 600, "attention": 5 * 50, "masking": 30, "optimizer": 7}
    found = hlo.Program(TPU_TEXT).cycles()
    assert {name: value for name, value in found.items() if value and name != "total"} == expected
    assert found["total"] == sum(expected.values())


def test_a_program_without_cycles_says_none():
    assert hlo.Program(GPU_TEXT).cycles() is None


def test_collectives_are_counted_with_their_bytes_started_ones_once():
    sent = [{"kind": "all-reduce", "count": 1, "bytes": 4 * (256 * 256 + 1)}]
    assert hlo.Program(TPU_TEXT).collectives() == sent
    sent = [{"kind": "all-reduce", "count": 1, "bytes": 400}]
    assert hlo.Program(GPU_TEXT).collectives() == sent


def test_the_attention_kernels_are_named():
    assert hlo.Program(TPU_TEXT).kernels() == ["splash_mha_fwd"]
    assert hlo.Program(GPU_TEXT).kernels() == ["__cudnn$fmhaScaleBiasSoftmax"]


def test_a_kernel_without_cycles_counts_its_products_with_heads_as_wide_as_the_lanes():
    kernels = "".join(
        f"  %splash_mha_{name}.1 = (f32[2,512,128]{{2,1,0}}, bf16[2,12,512,64]{{3,2,1,0}}) "
        'custom-call(%q), custom_call_target="tpu_custom_call"\n'
        for name in ("fwd", "dkv")
    )
    program = hlo.Program(f"ENTRY %main (q: f32[4]) -> f32[4] {{\n{kernels}}}\n")
    assert program.kernel_operations() == (2 + 5) * 2 * 2 * 12 * 512 * 512 * 128
    assert hlo.Program(TPU_TEXT).kernel_operations() == 0


def test_on_a_gpu_an_instruction_takes_its_operations_or_its_bytes_whichever_is_longer():
    program = hlo.Program(GPU_TEXT)
    product, scores = 2 * 64 * 32 * 16, 2 * 2 * 2 * 12 * 512 * 512 * 64
    by_operations = program.seconds(flops=1.0, bytes_per_s=1e30)
    assert by_operations["head"] == product and by_operations["rest"] == product
    assert by_operations["attention"] == scores
    by_bytes = program.seconds(flops=1e30, bytes_per_s=1.0)
    assert by_bytes["head"] == 2 * (64 * 32 + 32 * 16 + 64 * 16)
    assert by_bytes["attention"] == 2 * 4 * 2 * 12 * 512 * 64


@pytest.mark.parametrize(
    "op_name, part",
    [
        ("jit(f)/transpose(jvp(MaskedLM))/encoder/layers_3/query/dot_general", "attention"),
        ("jit(f)/jvp(MaskedLM)/encoder/layers_11/output_norm/mul", "feed-forward"),
        ("jit(f)/jvp(MaskedLM)/encoder/layers_0/gelu/erf", "feed-forward"),
        ("jit(f)/jvp(MaskedLM)/encoder/layers_0/attention_output/add", "attention"),
        ("jit(f)/transpose(jvp(MaskedLM))/encoder/layers_0/dropout/select_n", "dropout"),
        ("jit(f)/jvp(MaskedLM)/transform/dot_general", "head"),
        ("jit(f)/jvp(MaskedLM)/head/pd,vd->pv/dot_general", "head"),
        ("jit(f)/masking/vmap(jit(x))/sort", "masking"),
        ("jit(f)/optimizer/sqrt", "optimizer"),
        ("", "rest"),
    ],
)
def test_an_instruction_belongs_to_the_part_that_its_scopes_name(op_name, part):
    assert hlo.part_of(op_name) == part


def test_the_next_rows_to_try_lie_on_the_line_through_the_last_two():
    assert plan.next_rows([(0, 10.0), (4, 50.0)], 100.0) == 9
    assert plan.next_rows([(0, 10.0), (40, 50.0)], 100.0) == 88  # a multiple of 8 of 90
    assert plan.next_rows([(0, 0.0), (9, 90.0), (12, 132.0)], 104.0) == 10
    assert plan.next_rows([(0, 10.0), (64, float("inf"))], 100.0) == 32


def test_what_a_compiler_asks_for_is_read_from_its_refusal():
    text = "RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    assert plan.needed(text) == 20.5 * 2**30
    assert plan.needed("RESOURCE_EXHAUSTED: no more") == float("inf")


@pytest.mark.parametrize("name, nearest", [("v5e:2x3x", "v5e:2x2"), ("h10", "h100"), ("L4", "l4")])
def test_an_unknown_target_is_answered_with_the_nearest(monkeypatch, name, nearest):
    monkeypatch.setattr(plan_targets, "_check_installed", lambda *_: None)
    with pytest.raises(InputError, match=f"--target={name}: .*Did you mean '{nearest}'"):
        plan_targets.find(name)


@pytest.mark.parametrize("name, module", [("v5e:2x2", "libtpu"), ("h100", "jax_cuda13_plugin")])
def test_without_its_compiler_one_line_says_how_to_install_it(monkeypatch, name, module):
    find_spec = plan_targets.importlib.util.find_spec
    monkeypatch.setattr(
        plan_targets.importlib.util,
        "find_spec",
        lambda wanted: None if wanted == module else find_spec(wanted),
    )
    with pytest.raises(InputError, match="pip install -r requirements-plan.txt"):
        plan_targets.find(name)


def small_config(batch_size: int, accumulation_steps: int = 1) -> Config:
    """Returns a run that compiles in seconds."""
    model = ModelConfig(
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        feedforward_size=32,
        num_positions=16,
        dropout=0.1,
        attention_dropout=0.0,
    )
    return Config(
        num_steps=10,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        data=DataConfig(num_tokens=16),
        curriculum=CurriculumConfig(name="fixed"),
        optimizer=OptimizerConfig(warmup_steps=1),
        model=model,
    )


@pytest.fixture(scope="module")
def planned() -> tuple[plan.Plan, list[str]]:
    """The plan of a small run here: 4 CPU devices; 24 parts do not divide 48 rows among them."""
    said: list[str] = []
    found = plan.make(small_config(48, 24), plan_targets.find("here"), searches=0, say=said.append)
    return found, said


def test_the_plan_has_the_named_fields_and_no_others(planned):
    found = json.loads(json.dumps(dataclasses.asdict(planned[0])))
    assert set(found) == FIELDS and set(found["memory"]) == MEMORY
    assert found["cycles"] is None and found["seconds_per_step"] is None  # nothing known of it


def test_the_planned_program_is_the_real_one_with_one_all_reduce_of_the_gradients(planned):
    found, said = planned
    params = jax.eval_shape(plan.steps.programs(small_config(48), np.arange(1, 4097))[0]).params
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    (sent,) = found.collectives
    assert sent["kind"] == "all-reduce" and size <= sent["bytes"] < size + 100
    assert found.fits and found.devices == 4 and 3 * size < found.memory["state_bytes"] < 4 * size
    assert "accumulation_steps=12, not 24" in said[0]


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(InputError, match="batch_size=6: expected a multiple of the 4 devices"):
        plan.make(small_config(6), plan_targets.find("here"), say=lambda _: None)


def test_an_unknown_target_ends_the_command_with_status_2():
    command = [sys.executable, "-m", "launch.plan", "--config=configs/demo.py", "--target=v9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --target=v9: expected one of")
