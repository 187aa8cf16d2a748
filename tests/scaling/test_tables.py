import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

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


ROWS = [
    {"run": "a", "params": 10, "tokens": 100.0, "loss": 3.0, "annealed": True, "lr": 1e-3, "unique_tokens": 50},
    {"run": "a", "params": 10, "tokens": 200.0, "loss": 2.5, "annealed": True, "lr": 1e-4, "unique_tokens": 50},
    {"run": "b", "params": 20, "tokens": 100.0, "loss": 2.9, "annealed": False, "lr": 2e-3, "unique_tokens": None},
]


def write(path: Path) -> Path:
    """ROWS as the kind of file that the suffix says."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        lines = [ROWS[0], *(row.values() for row in ROWS)]
        path.write_text("\n".join(",".join("" if cell is None else str(cell) for cell in line) for line in lines))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_kind_of_file_holds_the_same_records(tmp_path: Path, suffix: str) -> None:
    a, b = read_table(write(tmp_path / f"table{suffix}"))
    assert (a.name, a.parameters, a.convention) == ("a", 10, TOTAL)
    assert a.curve.compute_flops.tolist() == [6000, 12000]
    assert a.curve.loss_nats_per_token.tolist() == [3, 2.5]
    assert (a.annealed, b.annealed) == (True, False)
    assert (a.learning_rate, b.learning_rate) == (1e-3, 2e-3)
    assert (a.unique_tokens, b.unique_tokens) == (50, None)


def test_cells_of_json_may_be_text_and_keys_may_lack(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"run": 1, "flops": "1e18", "loss": 4}\n{"run": 2, "flops": 1e19, "loss": "3", "annealed": "0"}\n')
    one, two = read_table(path)
    assert (one.name, two.name, one.annealed, two.annealed) == ("1", "2", None, False)
    assert (one.curve.compute_flops[0], two.curve.loss_nats_per_token[0]) == (1e18, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no row"),
        ('{"loss": 3}\n{"loss": \n', "line 2 is not JSON"),
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ('{"flops": 1, "loss": [3]}', r"line 1: loss is '\[3\]', not a number"),
        ('{"flops": 1, "loss": true}', "line 1: loss is 'True', not a number"),
        ('{"flops": 1, "loss": 3}\n{"loss": 3}', "line 2: flops is '', not a number"),
        ('{"flops": 1, "loss": NaN}', "run 't line 1' has a loss of nan"),
    ],
)
def test_bad_json_lines_are_told_in_one_line(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message) as error:
        read_table(tmp_path / "t.jsonl")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PAR1" + b"x" * 100 + b"PAR1", b"run,loss\na,1\n"])
def test_bad_parquet_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet is not a readable Parquet file") as error:
        read_table(tmp_path / "t.parquet")
    assert "\n" not in str(error.value)


def test_a_stated_convention_says_how_tokens_become_compute(tmp_path: Path) -> None:
    header = "run,params,params_no_embed,tokens,loss,compute_convention\n"
    (run,) = table(tmp_path, header + "a,10,7,100,3,total\n")
    assert run.convention == TOTAL
    assert run.curve.compute_flops.tolist() == [6000]


@pytest.mark.parametrize(
    "text",
    [
        "flops,bits_per_byte,bytes_per_token\n1e18,0.9,4.5\n",
        "flops,loss_bits_per_byte,bytes_per_token\n1e18,0.9,4.5\n",
        "flops,loss,loss_unit,bytes_per_token\n1e18,0.9,bits_per_byte,4.5\n",
    ],
)
def test_bits_per_byte_become_nats_per_token_exactly(tmp_path: Path, text: str) -> None:
    (run,) = table(tmp_path, text)
    assert run.curve.loss_nats_per_token == pytest.approx([0.9 * math.log(2) * 4.5], rel=1e-15)
    assert run.bits_per_byte == pytest.approx([0.9], rel=1e-15)


def test_a_loss_in_both_units_is_read_in_nats(tmp_path: Path) -> None:
    text = "flops,loss,bits_per_byte,bytes_per_token\n1e18,3,0.9,4.5\n"
    assert table(tmp_path, text)[0].curve.loss_nats_per_token.tolist() == [3]
    (run,) = table(tmp_path, text, {"bits_per_byte": "bits_per_byte"})  # asked for
    assert run.bits_per_byte == pytest.approx([0.9])


def test_units_may_differ_from_run_to_run(tmp_path: Path) -> None:
    header = "run,flops,loss,loss_unit,bytes_per_token\n"
    one, other = table(tmp_path, header + "a,1,3,nats_per_token,\nb,2,0.9,BITS_PER_BYTE,4.5\n")
    assert one.curve.loss_nats_per_token.tolist() == [3]
    assert other.bits_per_byte == pytest.approx([0.9])
    with pytest.raises(
        UserError, match=r"run 'b' has its loss in bits per byte .* say --columns bytes_per_token="
    ) as e:
        table(tmp_path, header + "a,1,3,nats_per_token,\nb,2,0.9,bits_per_byte,\n")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("file", "columns", "count", "first"),
    [
        ("kyo_takano_chinchilla/df.csv", {"compute_flops": "C", "parameters": "N", "tokens": "D"}, 234, 3.405928),
        ("olmo_ladder/c4_final.csv", {"loss": "c4_loss_final"}, 30, 3.74747896194458),
        ("gadre_overtraining/runs.csv", {"loss": "loss_c4_val"}, 104, 3.527949285),
        ("porian/isoflop_points.csv", {}, 1745, 4.7090756),
        ("pagnol_figure1/pagnol_figure1_curves.csv", {}, 5, 6.97782),
    ],
)
def test_public_tables(data_dir: Path, file: str, columns: dict[str, str], count: int, first: float) -> None:
    runs = read_table(data_dir / "scaling" / file, columns)
    assert len(runs) == count
    assert runs[0].curve.loss_nats_per_token[0] == first
    if "tokens" in columns:  # C = 6 N D as the table states it
        products = [6 * run.parameters * run.curve.tokens[0] / run.curve.compute_flops[0] for run in runs]
        np.testing.assert_allclose(products, 1, rtol=1e-6)


def test_public_sizes_and_rates(data_dir: Path) -> None:
    run = read_table(data_dir / "scaling" / "gadre_overtraining" / "runs.csv", {"loss": "loss_c4_val"})[0]
    assert (run.parameters, run.parameters_non_embedding, run.learning_rate) == (411616256, 359973888, 0.003)
    assert run.convention == NON_EMBEDDING
    assert run.curve.compute_flops[0] == 6 * 359973888 * 2058081280


def test_columns_of_other_names(tmp_path: Path) -> None:
    (run,) = table(tmp_path, "C,L,loss\n1e18,3,9\n", {"compute_flops": "C", "loss": "L"})
    assert run.curve.loss_nats_per_token.tolist() == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no row"),
        ("run,flops,loss\n", "holds no row"),
        ("run,flops,score\na,1,2\n", "no loss column"),
        ("run,loss\na,2\n", "neither compute nor the tokens and parameters: say"),
        ("run,flops,loss,test_loss\na,1,2,2\n", "both test_loss and loss could be the loss"),
        ("run,compute_flops,compute_pf_days,loss\na,1,2,2\n", "mixes units"),
        ("run,flops,loss\na,1,2\nb,one,2\n", "line 3: flops is 'one', not a number"),
        ("run,flops,loss\na,1\n", "line 2: loss is '', not a number"),
        ("run,flops,loss\n,1,2\n", "line 2: run is empty"),
        ("run,flops,loss\na,1,nan\n", "run 'a' has a loss of nan"),
        ('run,flops,loss\n"a,1,2\n', "not a readable table"),
        ("run,flops,loss,params\na,1,2,3\na,1,2,4\n", "several values of params"),
        ("run,flops,loss,compute_convention\na,1,2,mine\n", "convention 'mine' is none of non_embedding"),
        ("run,flops,loss,annealed\na,1,2,maybe\n", "annealed 'maybe' is none of true, 1, false, 0"),
        ("run,flops,loss,loss_unit\na,1,2,bits\n", "loss_unit 'bits' is none of nats_per_token, bits_per_byte"),
        ("run,flops,loss_nats_per_token,loss_unit\na,1,2,bits_per_byte\n", "mixes units: its loss column is loss_nats"),
        ("run,flops,bits_per_byte\na,1,0.9\n", "bits per byte but no bytes per token"),
        ("run,flops,loss\na,1,2,3\n", "line 2 has more cells than the header"),
        (
            "run,tokens,params,loss,compute_convention\na,1,2,3,non_embedding\n",
            r"that 6\*N_non_embedding\*D counts",
        ),
        ("run,flops,loss,params\na,1,2,0\n", "run 'a' has a value of parameters of 0"),
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
