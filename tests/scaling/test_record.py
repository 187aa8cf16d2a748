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


def test_imports_neither_jax_nor_matplotlib() -> None:
    code = (
        "import sys, pagnol_jax.scaling, pagnol_jax.scaling.report, pagnol_jax.cli.scaling;"
        "sys.exit(any(name in sys.modules for name in ('jax', 'matplotlib', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
