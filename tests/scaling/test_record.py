import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scaling.builders import power_runs

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import (
    NON_EMBEDDING,
    TOTAL,
    WITH_ATTENTION,
    Curve,
    RunRecord,
    check_comparable,
    fit_frontier,
    with_convention,
)
from pagnol_jax.scaling.record import harmonise, nats_per_token

RUN = power_runs(20, -0.05, 1)[0]


def test_curve_is_sorted_by_compute() -> None:
    run = RunRecord("a", Curve(np.array([2.0, 1.0]), np.array([20.0, 10.0]), np.array([3.0, 4.0])))
    assert run.curve.tokens.tolist() == [1, 2]
    assert run.curve.loss_nats_per_token.tolist() == [4, 3]


@pytest.mark.parametrize(
    ("compute", "loss", "message"),
    [
        ([1.0], [math.nan], "loss of nan"),
        ([1.0], [-1.0], "loss of -1"),
        ([0.0], [1.0], "compute of 0"),
        ([], [], "no checkpoint"),
    ],
)
def test_refuses_what_is_no_curve(compute: list[float], loss: list[float], message: str) -> None:
    with pytest.raises(UserError, match=f"run 'a' has a? ?{message}"):
        RunRecord("a", Curve(np.ones(len(loss)), np.array(compute), np.array(loss)))


def test_bits_per_byte() -> None:
    assert RUN.bits_per_byte is None
    bits = replace(RUN, bytes_per_token=4.0).bits_per_byte
    np.testing.assert_allclose(bits, RUN.curve.loss_nats_per_token / (4 * math.log(2)))
    np.testing.assert_allclose(nats_per_token(bits, 4.0), RUN.curve.loss_nats_per_token)


@pytest.mark.parametrize("field", ["parameters", "bytes_per_token", "learning_rate", "unique_tokens"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_refuses_sizes_that_are_none(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"run 'run0' has a value of {field} of {value:g}: it must be finite"):
        replace(RUN, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="number of tokens of -1"):
        replace(RUN, curve=RUN.curve._replace(tokens=np.full(5, -1.0)))


def test_conventions_convert_exactly_both_ways() -> None:
    run = replace(RUN, attention_flops_per_token=5e5)
    total, attention = with_convention(run, TOTAL), with_convention(run, WITH_ATTENTION)
    np.testing.assert_allclose(total.curve.compute_flops, 6 * 2e6 * run.curve.tokens)
    np.testing.assert_allclose(attention.curve.compute_flops, (6e6 + 5e5) * run.curve.tokens)
    back = with_convention(with_convention(total, WITH_ATTENTION), NON_EMBEDDING)
    np.testing.assert_allclose(back.curve.compute_flops, run.curve.compute_flops)


def test_conversion_recovers_tokens_from_the_stated_convention() -> None:
    unknown = replace(RUN, curve=RUN.curve._replace(tokens=np.full(5, np.nan)))
    np.testing.assert_allclose(with_convention(unknown, TOTAL).curve.tokens, RUN.curve.tokens)


@pytest.mark.parametrize(
    "run",
    [
        replace(RUN, parameters=None),
        replace(RUN, convention=None, curve=RUN.curve._replace(tokens=np.full(5, np.nan))),
    ],
)
def test_conversion_that_is_not_exact_is_refused(run: RunRecord) -> None:
    with pytest.raises(UserError, match=r"run 'run0' .* cannot be counted as 6\*N_total\*D"):
        with_convention(run, TOTAL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convention": TOTAL}, r"differ in compute convention \(6\*N_non_embedding\*D; 6\*N_total\*D\)"),
        ({"convention": None}, r"compute convention \(6\*N_non_embedding\*D; not stated\)"),
        ({"tokenizer": "other"}, r"differ in tokenizer \(bpe; other\)"),
        ({"corpus": None}, r"differ in corpus \(wiki; not stated\)"),
    ],
)
def test_mixtures_are_refused(change: dict[str, object], message: str) -> None:
    runs = power_runs(20, -0.05, 3)
    check_comparable(runs)
    with pytest.raises(UserError, match=message):
        fit_frontier([*runs[:-1], replace(runs[-1], **change)])  # type: ignore[arg-type]


def test_mixed_conventions_are_counted_as_one_where_that_is_exact() -> None:
    runs = power_runs(20, -0.05, 4)
    mixed = [
        runs[0],
        with_convention(runs[1], TOTAL),
        replace(runs[2], convention=None),
        with_convention(runs[3], TOTAL),
    ]
    for one, other in zip(harmonise(mixed), runs, strict=True):
        assert one.convention == NON_EMBEDDING
        np.testing.assert_allclose(one.curve.compute_flops, other.curve.compute_flops)
    # N_non_embedding of one run is not known: all can still be counted with their embeddings.
    mixed[1] = replace(mixed[1], parameters_non_embedding=None)
    for one, other in zip(harmonise(mixed), runs, strict=True):
        np.testing.assert_allclose(one.curve.compute_flops, with_convention(other, TOTAL).curve.compute_flops)


def test_conventions_that_cannot_be_made_one_are_refused() -> None:
    runs = power_runs(20, -0.05, 2)
    mixed = [
        replace(runs[0], parameters=None),
        replace(with_convention(runs[1], TOTAL), parameters_non_embedding=None),
    ]
    with pytest.raises(UserError, match="runs 'run0' and 'run1' differ in compute convention") as error:
        harmonise(mixed)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="differ in tokenizer"):
        harmonise([runs[0], replace(runs[1], tokenizer=None)])


def test_one_convention_that_nobody_states_is_left_alone() -> None:
    runs = [replace(run, convention=None) for run in power_runs(20, -0.05, 2)]
    assert harmonise(runs) == runs


def test_imports_neither_matplotlib_nor_tensorflow() -> None:
    code = (
        "import sys, pagnol_jax.scaling, pagnol_jax.scaling.report, pagnol_jax.cli.scaling;"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
