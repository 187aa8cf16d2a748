from pathlib import Path

import numpy as np
import pytest

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import NON_EMBEDDING, TOTAL, RunRecord
from pagnol_jax.scaling.tables import read_table


def table(folder: Path, text: str, columns: dict[str, str] | None = None) -> list[RunRecord]:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, columns)


def test_checkpoints_are_grouped_by_run(tmp_path: Path) -> None:
    small, large = table(tmp_path, "curve,compute_pf_days,test_loss\ns,1,4\nl,3,3.5\ns,2,3.9\n")
    assert (small.name, large.name) == ("s", "l")
    np.testing.assert_allclose(small.curve.compute_flops, [8.64e19, 2 * 8.64e19])
    assert small.curve.loss_nats_per_token.tolist() == [4, 3.9]
    assert small.convention is None
    assert np.isnan(small.curve.tokens).all()


def test_without_names_every_row_is_a_run(tmp_path: Path) -> None:
    runs = table(tmp_path, "flops,loss\n1e18,4\n1e19,3\n")
    assert [run.name for run in runs] == ["table line 2", "table line 3"]


def test_compute_comes_from_tokens_and_size(tmp_path: Path) -> None:
    (run,) = table(tmp_path, "run,params,tokens,loss\na,10,100,3\n")
    assert run.convention == TOTAL
    assert run.curve.compute_flops.tolist() == [6000]
    (run,) = table(tmp_path, "run,params,params_no_embed,tokens,loss\na,10,7,100,3\n")
    assert run.convention == NON_EMBEDDING
    assert run.curve.compute_flops.tolist() == [4200]
    assert (run.parameters, run.parameters_non_embedding) == (10, 7)


def test_conventions_and_identities_are_read(tmp_path: Path) -> None:
    header = "run,compute_flops,loss,compute_convention,tokenizer,corpus,bytes_per_token\n"
    (run,) = table(tmp_path, header + "a,6000,3,total,bpe,wiki,4\n")
    assert run.convention == TOTAL
    assert (run.tokenizer, run.corpus, run.bytes_per_token) == ("bpe", "wiki", 4)


def test_columns_of_other_names(tmp_path: Path) -> None:
    (run,) = table(tmp_path, "C,L,loss\n1e18,3,9\n", {"compute_flops": "C", "loss": "L"})
    assert run.curve.loss_nats_per_token.tolist() == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no row"),
        ("run,flops,loss\n", "holds no row"),
        ("run,flops,score\na,1,2\n", "no loss column"),
        ("run,loss\na,2\n", "neither compute nor tokens and parameters"),
        ("run,flops,loss,test_loss\na,1,2,2\n", "both test_loss and loss could be the loss"),
        ("run,compute_flops,compute_pf_days,loss\na,1,2,2\n", "mixes units"),
        ("run,flops,loss\na,1,2\nb,one,2\n", "line 3: flops is 'one', not a number"),
        ("run,flops,loss\na,1\n", "line 2: loss is '', not a number"),
        ("run,flops,loss\n,1,2\n", "line 2: run is empty"),
        ("run,flops,loss\na,1,nan\n", "run 'a' has a loss of nan"),
        ('run,flops,loss\n"a,1,2\n', "not a readable table"),
        ("run,flops,loss,params\na,1,2,3\na,1,2,4\n", "several values of params"),
        ("run,flops,loss,compute_convention\na,1,2,mine\n", "convention 'mine' is none of non_embedding"),
    ],
)
def test_bad_tables_are_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        table(tmp_path, text)
    assert "\n" not in str(error.value)


def test_other_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'L'; it has run, flops, loss"):
        table(tmp_path, "run,flops,loss\na,1,2\n", {"loss": "L"})
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a readable table"):
        read_table(tmp_path / "binary.csv")
