"""Cutting, holding out, and the data set on disk."""

import dataclasses
import gzip
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmgems_jax.config import Config, DataConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows import cutting, dataset
from cmgems_jax.windows import files as window_files

K, NUM_TOKENS, FULL = 3, 18, 18  # 16 k-mers of 3 bases cover 18 bases


def make_config(fasta: Path | str = "", **data) -> Config:
    tokens = data.pop("tokens", TokensConfig(k=K))
    seed = data.pop("seed", 0)
    return Config(
        seed=seed, data=DataConfig(fasta=str(fasta), num_tokens=NUM_TOKENS, **data), tokens=tokens
    )


def write_fasta(path: Path, lengths: list[int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    records = [
        f">r{number}\n{vocabulary.decode(rng.integers(0, 4, length).astype(np.uint8))}\n"
        for number, length in enumerate(lengths)
    ]
    path.write_text("".join(records))
    return path


def slow_cut(num_bases: int, contig_index: int, config: Config) -> list[tuple[int, int, float]]:
    """Piece by piece, from the specification; three draws a piece."""
    rng = np.random.default_rng((config.seed, 0, contig_index))
    pieces, start = [], 0
    while start < num_bases:
        full, shorter, split = rng.random(3)
        length = config.window_bases
        if not full < config.data.full_length_share:
            length = int(5 + shorter * (config.window_bases - 5))
        length = min(length, num_bases - start)
        pieces.append((start, length, split))
        start += length
    return pieces


def starts(pieces: cutting.Cut) -> np.ndarray:
    return np.cumsum(pieces.length_W) - pieces.length_W


def rows_of(data_dir: Path, split: str) -> np.ndarray:
    opened = dataset.open_split(data_dir, split)
    return opened.read(np.arange(len(opened)))


def real_rows(data_dir: Path, split: str) -> list[bytes]:
    return [row[row != vocabulary.PADDING].tobytes() for row in rows_of(data_dir, split)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Config, Path]:
    """Five contigs of one file, split by contig."""
    folder = tmp_path_factory.mktemp("windows")
    config = make_config(write_fasta(folder / "a.fa", [3_000, 500, 2_000, 700, 400]))
    return config, dataset.prepare(config, folder / "data")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_bases", [1, 4, 17, 18, 19, 5_000])
def test_cut_equals_a_slow_piece_by_piece_cutter(share, num_bases):
    config = make_config(full_length_share=share, seed=7)
    pieces = cutting.cut(num_bases, 3, config)
    found = zip(*(row.tolist() for row in (starts(pieces), *pieces)), strict=True)
    assert list(found) == slow_cut(num_bases, 3, config)


def test_pieces_tile_the_contig_without_gap_or_overlap():
    for index in range(20):
        pieces = cutting.cut(1_000 + index, index, make_config())
        assert pieces.length_W.sum() == 1_000 + index
        assert pieces.length_W.min() > 0


def test_lengths_follow_the_published_law():
    """Half are full, the others uniform on 5..514; each within 5 standard deviations."""
    config = Config(data=DataConfig(full_length_share=0.5))
    length_W = cutting.cut(10_000_000, 0, config).length_W[:-1]
    full = config.window_bases
    assert full == 515 and length_W.max() == full and length_W.min() == 5
    shorter_W = length_W[length_W < full]
    spread = 0.5 / np.sqrt(len(length_W))
    assert abs(len(shorter_W) / len(length_W) - 0.5) < 5 * spread
    uniform_sd = np.sqrt((510**2 - 1) / 12 / len(shorter_W))
    assert abs(shorter_W.mean() - (5 + 514) / 2) < 5 * uniform_sd


def test_contigs_of_one_length_are_cut_differently():
    first, second = (cutting.cut(5_000, index, make_config()).length_W for index in (0, 1))
    assert not np.array_equal(first, second)


def test_held_out_bases_are_near_the_fraction():
    for seed in range(20):
        bases_C = np.random.default_rng(seed).integers(1, 1_000, 200)
        held_C = cutting.hold_out(bases_C, 0.1, seed)
        assert abs(bases_C[held_C].sum() / bases_C.sum() - 0.1) < 0.005


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("bases", [[5, 5], [1, 1_000], [1_000, 1, 0], [3, 3, 3]])
def test_neither_split_is_empty_with_few_unequal_contigs(bases, fraction):
    bases_C = np.array(bases)
    for seed in range(10):
        held_C = cutting.hold_out(bases_C, fraction, seed)
        assert 0 < bases_C[held_C].sum() < bases_C.sum()


def test_the_smaller_of_two_contigs_is_held_out():
    assert cutting.hold_out(np.array([900, 100]), 0.1, 0).tolist() == [False, True]


@pytest.mark.parametrize("split", ["contig", "window"])
def test_the_data_set_holds_every_piece_of_the_slow_cutter(split, tmp_path):
    fasta = write_fasta(tmp_path / "a.fa", [900, 300, 250])
    config = make_config(fasta, split=split, validation_fraction=0.2)
    data_dir = dataset.prepare(config, tmp_path / "data")
    summary = dataset.read_summary(data_dir)
    expected = {"train": [], "validation": []}
    for index, contig in enumerate(genome_files.read_contigs([str(fasta)])):
        name = f"{contig.record}:1-{len(contig.bases)}"
        for start, length, draw in slow_cut(len(contig.bases), index, config):
            held = draw < 0.2 if split == "window" else name in summary["held_out_contigs"]
            if length >= K:
                piece = contig.bases[start : start + length].tobytes()
                expected["validation" if held else "train"].append(piece)
    for name, pieces in expected.items():
        assert real_rows(data_dir, name) == pieces
        assert summary["windows"][name] == len(pieces)
        assert summary["real_bases"][name] == sum(map(len, pieces))
    dropped = summary["short_pieces_bases"]
    assert sum(summary["real_bases"].values()) + dropped == 900 + 300 + 250


def test_rows_are_bases_then_padding(prepared):
    rows_WN = rows_of(prepared[1], "train")
    assert rows_WN.dtype == np.uint8 and rows_WN.shape[1] == FULL
    padding_WN = rows_WN == vocabulary.PADDING
    assert rows_WN[~padding_WN].max() < vocabulary.AMBIGUOUS
    assert np.all(padding_WN[:, 1:] >= padding_WN[:, :-1])
    assert (~padding_WN).sum(axis=1).min() >= K


def test_no_contig_is_in_both_splits(prepared):
    config, data_dir = prepared
    held = dataset.read_summary(data_dir)["held_out_contigs"]
    contigs = {
        f"{c.record}:1-{len(c.bases)}": c.bases.tobytes()
        for c in genome_files.read_contigs(config.fasta_paths)
    }
    assert 0 < len(held) < len(contigs) and set(held) < set(contigs)
    validation = [contigs[name] for name in held]
    training = [bases for name, bases in contigs.items() if name not in held]
    full = [piece for piece in real_rows(data_dir, "validation") if len(piece) == FULL]
    assert full and all(any(piece in bases for bases in validation) for piece in full)
    assert not any(piece in bases for piece in full for bases in training)


def test_one_contig_is_split_by_window(tmp_path):
    config = make_config(write_fasta(tmp_path / "a.fa", [3_000]))
    summary = dataset.read_summary(dataset.prepare(config, tmp_path / "data"))
    assert summary["split"] == "window" and summary["held_out_contigs"] == []


def test_several_shards_and_chunks_keep_every_window(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(window_files, "SHARD_WINDOWS", 100)
    monkeypatch.setattr(cutting, "_CHUNK_WINDOWS", 7)
    data_dir = dataset.prepare(prepared[0], tmp_path / "data")
    assert len(list(data_dir.glob("*train*"))) > 2
    for split in cutting.SPLITS:
        assert np.array_equal(rows_of(data_dir, split), rows_of(prepared[1], split))


def test_two_prepares_give_identical_bytes(prepared, tmp_path):
    data_dir = dataset.prepare(prepared[0], tmp_path / "again")
    names = sorted(path.name for path in data_dir.iterdir() if path.name != "windows.json")
    assert len(names) >= 4
    for name in names:
        assert (data_dir / name).read_bytes() == (prepared[1] / name).read_bytes(), name
    first, second = map(dataset.read_summary, (prepared[1], data_dir))
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_another_seed_gives_other_windows(prepared, tmp_path):
    config = make_config(prepared[0].data.fasta, seed=1)
    other = rows_of(dataset.prepare(config, tmp_path / "data"), "train")
    first = rows_of(prepared[1], "train")
    assert other.shape != first.shape or not np.array_equal(other, first)


@pytest.mark.parametrize("split", cutting.SPLITS)
def test_lengths_are_those_of_the_rows(prepared, split):
    _, data_dir = prepared
    lengths = dataset.open_split(data_dir, split).lengths
    expected = (rows_of(data_dir, split) != vocabulary.PADDING).sum(axis=1)
    np.testing.assert_array_equal(lengths, expected)
    summary = dataset.read_summary(data_dir)
    assert lengths.sum() == summary["real_bases"][split]


@pytest.mark.parametrize("change", ["gone", "cut", "of another split"])
def test_lengths_that_are_missing_or_wrong_are_refused(prepared, tmp_path, change):
    (_, data_dir), copy = prepared, tmp_path / "copy"
    shutil.copytree(data_dir, copy)
    path = copy / "lengths_train.npy"
    path.unlink()
    if change == "cut":
        path.write_bytes((data_dir / path.name).read_bytes()[:40])
    elif change == "of another split":
        shutil.copy(copy / "lengths_validation.npy", path)
    with pytest.raises(InputError, match=r"lengths_train\.npy: .*remove .*copy and make it again"):
        dataset.open_split(copy, "train")


def test_reading_is_random_access(prepared):
    opened = dataset.open_split(prepared[1], "train")
    all_rows = opened.read(np.arange(len(opened)))
    indices = np.random.default_rng(0).integers(0, len(opened), 50)
    assert np.array_equal(opened.read(indices), all_rows[indices])
    assert opened.read(np.array([], np.int64)).shape == (0, FULL)


def test_the_same_settings_reuse_the_data_set(prepared, capsys, monkeypatch):
    monkeypatch.setattr(cutting, "plan", lambda *_: pytest.fail("was made again"))
    assert dataset.prepare(*prepared) == prepared[1]
    assert "reused" in capsys.readouterr().out
    assert dataset.prepare(make_config(), prepared[1]) == prepared[1]  # no input given


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 5}, r"seed=5 \(there: 0\)"),
        ({"full_length_share": 0.25}, r"data\.full_length_share=0\.25 \(there: 0\.5\)"),
        ({"tokens": TokensConfig(k=4)}, r"tokens\.k=4 \(there: 3\)"),
    ],
)
def test_other_settings_are_refused_by_name(prepared, settings, message):
    config = make_config(prepared[0].data.fasta, **settings)
    with pytest.raises(InputError, match=message + ".*another data.dir"):
        dataset.prepare(config, prepared[1])


def test_another_genome_is_refused(prepared, tmp_path):
    config = make_config(write_fasta(tmp_path / "b.fa", [3_000, 500], seed=9))
    with pytest.raises(InputError, match="contents of the input files"):
        dataset.prepare(config, prepared[1])


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    config = make_config(write_fasta(tmp_path / "a.fa", [900, 300]))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a prepared data set"):
        dataset.prepare(config, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_prepare_leaves_nothing(tmp_path, monkeypatch, error):
    config = make_config(write_fasta(tmp_path / "a.fa", [900, 300, 300]))
    plan_rows = cutting.Plan.rows

    def interrupted(plan, split):
        yield next(plan_rows(plan, split))
        if split == "validation":
            raise error("stop")

    monkeypatch.setattr(cutting.Plan, "rows", interrupted)
    with pytest.raises(error):
        dataset.prepare(config, tmp_path / "data")
    assert os.listdir(tmp_path) == ["a.fa"]


def test_the_slower_of_two_processes_takes_the_data_set_of_the_faster(tmp_path, monkeypatch):
    config = make_config(write_fasta(tmp_path / "a.fa", [900, 300, 300]))
    plan = cutting.plan

    def overtaken(*arguments):
        monkeypatch.setattr(cutting, "plan", plan)
        dataset.prepare(config, tmp_path / "data")
        return plan(*arguments)

    monkeypatch.setattr(cutting, "plan", overtaken)
    assert dataset.prepare(config, tmp_path / "data") == tmp_path / "data"
    assert sorted(os.listdir(tmp_path)) == ["a.fa", "data"]


@pytest.mark.parametrize(
    ("lengths", "split", "message"),
    [
        ([10], "auto", "too little data"),
        ([2, 2], "auto", "too little data"),
        ([900], "contig", "data.split='contig'.*two or more"),
    ],
)
def test_too_little_data_is_refused_before_anything_is_written(lengths, split, message, tmp_path):
    config = make_config(write_fasta(tmp_path / "a.fa", lengths), split=split)
    with pytest.raises(InputError, match=message):
        dataset.prepare(config, tmp_path / "data")
    assert os.listdir(tmp_path) == ["a.fa"]


def test_without_input_the_flag_is_named(tmp_path):
    with pytest.raises(InputError, match="--config.data.fasta="):
        dataset.prepare(make_config(), tmp_path / "data")
    with pytest.raises(InputError, match="not a prepared data set"):
        dataset.open_split(tmp_path / "data", "train")


def test_a_damaged_summary_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "windows.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        dataset.prepare(make_config(), tmp_path / "data")


def test_a_refused_seed_leaves_the_synthetic_genome_alone(tmp_path):
    data_dir = dataset.prepare(make_config(synthetic_bases=20_000), tmp_path / "data")
    (path,) = data_dir.glob("synthetic*")
    before = path.read_bytes()
    with pytest.raises(InputError, match="seed=1"):
        dataset.prepare(make_config(synthetic_bases=20_000, seed=1), data_dir)
    with pytest.raises(InputError, match="contents of the input files"):
        dataset.prepare(make_config(synthetic_bases=30_000), data_dir)
    assert path.read_bytes() == before


def test_the_synthetic_genome_lies_in_the_data_folder_named_by_its_content(tmp_path):
    """Data sets side by side do not share it: each holds the bases of its own seed."""
    for seed in (0, 1):
        config = make_config(synthetic_bases=30_000, seed=seed)
        data_dir = dataset.prepare(config, tmp_path / f"data{seed}")
        path = data_dir / f"synthetic_30000_bases_seed{seed}.fa"
        summary = json.loads((data_dir / "windows.json").read_text())
        assert summary["input"]["bases"] == 30_000 and summary["files"] == [str(path)]
        assert summary["content"] == genome_files.survey(path).content
        assert dataset.input_paths(config, data_dir) == [str(path)]
        assert dataset.prepare(config, data_dir) == data_dir
    assert sorted(os.listdir(tmp_path)) == ["data0", "data1"]


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ([40_000, 500], "1.2% of the bases"),  # a small genome beside a large one
        ([50_000, 40_000], "44.4% of the bases"),
        ([30_000, 2_000], "6.2% of the bases"),  # near enough, but too few windows
    ],
)
def test_contigs_far_from_the_share_give_way_to_blocks_of_windows(lengths, found, tmp_path, capsys):
    config = make_config(write_fasta(tmp_path / "a.fa", lengths))
    config.eval_windows = 800 if lengths[0] == 30_000 else 20
    data_dir = dataset.prepare(config, tmp_path / "data")
    summary = dataset.read_summary(data_dir)
    bases = summary["real_bases"]
    assert 0.05 < bases["validation"] / sum(bases.values()) < 0.2
    assert summary["split"].startswith("blocks of ") and summary["held_out_contigs"] == []
    assert f"held-out contigs would be {found}" in capsys.readouterr().out
    whole = make_config(config.data.fasta, split="contig")
    assert dataset.read_summary(dataset.prepare(whole, tmp_path / "whole"))["split"] == "contig"


def test_windows_of_a_block_stay_together(tmp_path):
    config = make_config(write_fasta(tmp_path / "a.fa", [80_000, 400]))
    plan = cutting.plan(config.fasta_paths, config)
    assert plan.block == 16  # of about 700 windows that should be held out
    held_W = plan.pieces.held_P[: plan.pieces.first_C[1]]
    blocks = held_W[: len(held_W) // 16 * 16].reshape(-1, 16)
    assert np.all(blocks == blocks[:, :1]) and 0 < blocks[:, 0].sum() < len(blocks)


@pytest.mark.parametrize("tokens", [TokensConfig(3, 3), TokensConfig(6, 3), TokensConfig(5, 2)])
def test_windows_begin_in_frame_and_still_tile_the_contig(tokens):
    for index in range(5):
        pieces = cutting.cut(2_000 + index, index, make_config(tokens=tokens))
        assert np.all(starts(pieces) % tokens.stride == 0)
        assert pieces.length_W.sum() == 2_000 + index
        assert pieces.length_W.min() > 0


def repacked(path: Path, folder: Path) -> Path:
    """The same bases under another name: gzip, lower case, other lines and record names."""
    text = path.read_text().lower().replace(">r", ">another_")
    text = re.sub(r"([acgt]{50})", r"\1\n", text)
    (folder / "b.fa.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "b.fa.gz"


def test_the_same_bases_elsewhere_and_packed_otherwise_are_the_same_input(prepared, tmp_path):
    config, data_dir = prepared
    other = repacked(Path(config.data.fasta), tmp_path)
    assert dataset.prepare(make_config(other), data_dir) == data_dir
    assert dataset.is_prepared(make_config(other), data_dir)


def test_the_content_is_the_hash_of_the_hashes_of_contigs(tmp_path):
    (tmp_path / "a.fa").write_text(">x\nACGTNNtT\n>y\nN\n>z\nGGGG\n")  # codes A T C G = 0..3
    contigs = (b"\0\2\3\1", b"\1\1", b"\3\3\3\3")
    expected = hashlib.sha256(b"".join(hashlib.sha256(x).digest() for x in contigs)).hexdigest()
    assert genome_files.survey(tmp_path / "a.fa").content == expected


def test_a_genome_that_is_gone_is_a_note_where_its_windows_are_there(prepared, tmp_path, capsys):
    gone = tmp_path / "gone.fa"
    assert dataset.prepare(make_config(gone), prepared[1]) == prepared[1]
    out = capsys.readouterr().out
    assert out.count("note: ") == 1 and f"note: {gone}: no such file; continuing with" in out
    with pytest.raises(InputError, match="no such file"):
        dataset.prepare(make_config(gone), tmp_path / "new")


def test_a_data_set_of_an_earlier_version_is_known_by_its_files_as_packed(prepared, tmp_path):
    config, old = prepared[0], tmp_path / "old"
    shutil.copytree(prepared[1], old)
    summary = dataset.read_summary(old)
    del summary["content"], summary["split_note"]
    (old / "windows.json").write_text(json.dumps(summary))
    assert dataset.prepare(config, old) == old
    other = repacked(Path(config.data.fasta), tmp_path)
    with pytest.raises(InputError, match="leave data.fasta empty to continue with the windows"):
        dataset.prepare(make_config(other), old)
    assert dataset.prepare(make_config(), old) == old
    assert "sha256" in dataset.identity(old) and "content" not in dataset.identity(old)


def test_no_contig_is_cut_twice(tmp_path, monkeypatch):
    config = make_config(write_fasta(tmp_path / "a.fa", [40] * 200))
    numbers, cut = [], cutting.cut
    monkeypatch.setattr(
        cutting, "cut", lambda *arguments: numbers.append(arguments[1]) or cut(*arguments)
    )
    dataset.prepare(config, tmp_path / "data")
    assert numbers == list(range(200))


@pytest.mark.parametrize("lengths", [[900, 100], [9_000, 8_000]])
def test_a_plan_without_its_pieces_gives_the_same_windows(tmp_path, lengths):
    """As workers of a pipeline get it: held-out contigs, and drawn blocks."""
    config = make_config(write_fasta(tmp_path / "a.fa", lengths))
    plan = cutting.plan(config.fasta_paths, config)
    bare = dataclasses.replace(plan, pieces=None)
    for split in cutting.SPLITS:
        assert np.array_equal(plan.lengths()[split], bare.lengths()[split])
        for one, other in zip(plan.rows(split), bare.rows(split), strict=True):
            assert np.array_equal(one, other)
