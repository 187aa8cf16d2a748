import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from pagnol_jax.data.corpora import (
    cc100,
    files,
    find_files,
    held_out,
    jsonl,
    parquet,
    sample,
    text,
)
from pagnol_jax.data.readers import Shard, read_cc100, read_jsonl, read_parquet
from pagnol_jax.errors import UserError

TEXTS = [f"document {i}\nune fée n° {i} 🙂" for i in range(20)]
LINES = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS).encode()
LONG_WINDOW = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(compression_params=LONG_WINDOW).compress,
}


def texts_of(corpus):
    return [document.text for shard in corpus.shards() for document in corpus.read(shard)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_in_every_compression(tmp_path, suffix):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](LINES))
    assert texts_of(files(str(tmp_path / f"*.jsonl{suffix}"))) == TEXTS


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("cut", [1, 30])
def test_a_file_cut_short_is_noticed(tmp_path, suffix, cut):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](LINES)[:-cut])
    with pytest.raises(UserError, match=f"a.jsonl{suffix}: damaged or cut short after line"):
        texts_of(jsonl(str(path)))


def test_several_zstd_frames_and_a_flipped_byte(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    frames = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
    path.write_bytes(frames * 2)
    assert texts_of(jsonl(str(path))) == TEXTS * 2
    path.write_bytes(frames[:50] + bytes([frames[50] ^ 1]) + frames[51:])
    with pytest.raises(UserError, match=r"a\.jsonl\.zst"):
        texts_of(jsonl(str(path)))


@pytest.mark.parametrize("parts", [1, 3, 16, 50])
def test_parts_share_out_the_documents(tmp_path, parts):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.txt").write_text("\n\n" + "\n\n\n".join(TEXTS))
    for read, name in ((lambda s: read_jsonl(s, "text"), "a.jsonl"), (read_cc100, "a.txt")):
        found = [d for part in range(parts) for d in read(Shard(str(tmp_path / name), part, parts))]
        assert sorted(d.text for d in found) == sorted(TEXTS)
        assert len({d.id for d in found}) == len(TEXTS)


def test_text_is_one_document_a_file(tmp_path):
    for name, content in (("b.txt", "deux\n\nparagraphes\n"), ("a.txt", "un")):
        (tmp_path / name).write_text(content)
    assert texts_of(text(str(tmp_path / "*.txt"))) == ["un", "deux\n\nparagraphes"]
    assert texts_of(cc100(str(tmp_path / "b.txt"))) == ["deux", "paragraphes"]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"content": TEXTS, "n": range(20)}), path, row_group_size=6)
    assert texts_of(parquet(str(path), column="content")) == TEXTS
    parts = [[d.text for d in read_parquet(Shard(str(path), part, 3), "content")] for part in range(3)]
    assert sorted([text for part in parts for text in part]) == sorted(TEXTS)
    with pytest.raises(UserError, match=r"no column 'text'; it has content, n"):
        texts_of(parquet(str(path)))
    with pytest.raises(UserError, match=r"row 0 of group 0: no text under 'n'"):
        texts_of(parquet(str(path), column="n"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: cannot read as Parquet"):
        texts_of(parquet(str(path), column="content"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', r"a\.jsonl:3: not JSON"),
        (b"[1, 2]", r"a\.jsonl:3: no text under 'text'"),
        (b'{"txt": "a"}', r"a\.jsonl:3: no text under 'text'"),
        (b'{"text": 5}', r"a\.jsonl:3: no text under 'text'"),
        (b'{"text": "\xe9"}', r"a\.jsonl:3: not UTF-8: .* at byte 10"),
        (b'{"text": "a\\ud800"}', r"a\.jsonl:3: text with half a surrogate pair"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "bon"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=message) as error:
        texts_of(jsonl(str(path)))
    assert "\n" not in str(error.value)


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_DIR", str(tmp_path))
    monkeypatch.delenv("NO_DIR", raising=False)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert find_files("$SOME_DIR/*.jsonl") == [str(tmp_path / "a.jsonl")]
    with pytest.raises(UserError, match="the environment variable NO_DIR is not set"):
        jsonl("${NO_DIR}/a.jsonl").shards()
    with pytest.raises(UserError, match=r"b\.jsonl: no such file"):
        jsonl("$SOME_DIR/b.jsonl").shards()
    with pytest.raises(UserError, match="ends in none of"):
        files("a.pdf")


def test_fingerprint_follows_content_not_place_or_time(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(LINES)
    here, there = (jsonl(str(tmp_path / folder / "*.jsonl")) for folder in ("here", "there"))
    before = here.fingerprint()
    assert there.fingerprint() == before
    changed = bytearray(LINES)
    changed[len(changed) // 2] ^= 1
    (tmp_path / "here" / "a.jsonl").write_bytes(changed)
    assert here.fingerprint() != before
    (tmp_path / "there" / "b.jsonl").write_bytes(LINES)
    assert there.fingerprint() != before


def test_held_out_is_a_fraction_by_text():
    texts = [f"texte {i}" for i in range(4000)]
    held = [t for t in texts if held_out(t, 0.1)]
    assert 300 < len(held) < 500
    assert set(held) <= {t for t in texts if held_out(t, 0.2)}
    assert not any(held_out(t, 0.0) for t in texts)


def test_a_sample_is_chosen_by_text(tmp_path):
    texts = [f"texte {number}" for number in range(4000)]
    whole, backwards = (
        lines_of(tmp_path / f"{name}.jsonl", given) for name, given in (("a", texts), ("b", texts[::-1]))
    )
    half = sample(whole, 0.5)
    chosen = texts_of(half)
    assert abs(len(chosen) - 2000) < 4 * (4000 / 4) ** 0.5
    assert sorted(texts_of(sample(backwards, 0.5))) == sorted(chosen)
    assert set(texts_of(sample(whole, 0.2))) < set(chosen)
    both = set(chosen) & {text for text in texts if held_out(text, 0.5)}  # the split has nothing to do with it
    assert abs(len(both) - 1000) < 4 * (4000 * 3 / 16) ** 0.5
    assert texts_of(sample(whole, 1.0)) == texts
    assert half.definition == f"sample({whole.definition}, 0.5)"
    for fraction in (0.0, 1.5, -1.0):
        with pytest.raises(UserError, match="a fraction above 0 and at most 1"):
            sample(whole, fraction)


def lines_of(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return jsonl(str(path))
