import functools
import gzip
import hashlib
import math
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lagrange_jax.datasets import cmapss, cmapss_files, load_cmapss, manual_files, tfds
from lagrange_jax.datasets.cmapss_files import Checksum, Engine, read_subset
from lagrange_jax.datasets.cmapss_splits import make_splits
from lagrange_jax.datasets.scaling import apply_scaler, fit_scaler, operating_conditions

DATA = os.environ.get("LAGRANGE_JAX_DATA", "")
real = pytest.mark.skipif(
    not Path(DATA, "cmapss").is_dir() or not DATA,
    reason="LAGRANGE_JAX_DATA names no folder with cmapss in it",
)
every_subset = pytest.mark.parametrize("subset", ["FD001", "FD002", "FD003", "FD004"])
SENSORS = np.array([2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21])
COUNTS = {  # train rows, train units, test rows, test units, conditions
    "FD001": (20_631, 100, 13_096, 100, 1),
    "FD002": (53_759, 260, 33_991, 259, 6),
    "FD003": (24_720, 100, 16_596, 100, 1),
    "FD004": (61_249, 249, 41_214, 248, 6),
}
OPTIONS = {
    "window": 3,
    "rul_cap": 4.0,
    "cap_test_rul": True,
    "validation_fraction": 0.25,
    "split_seed": 0,
    "sensors": (1, 2),
}


# The independent reading: plain NumPy, float64 where we have float32.


@functools.cache
def oracle_rows(kind, subset):
    with gzip.open(Path(DATA, "cmapss", f"{kind}_{subset}.txt.gz")) as file:
        return np.loadtxt(file, ndmin=2)


def oracle_engine(kind, subset, unit):
    rows = oracle_rows(kind, subset)
    return rows[rows[:, 0] == unit]


def oracle_scaled(rows, train_rows):
    """Min-max by the first setting, which alone tells the six conditions apart."""
    result = np.full((len(rows), len(SENSORS)), np.nan)
    for condition in np.unique(np.round(train_rows[:, 2])):
        fitted = train_rows[np.round(train_rows[:, 2]) == condition][:, 4 + SENSORS]
        here = np.round(rows[:, 2]) == condition
        low, high = fitted.min(axis=0), fitted.max(axis=0)
        varies = high > low
        scaled = np.zeros((here.sum(), len(SENSORS)))
        values = rows[here][:, 4 + SENSORS][:, varies] - low[varies]
        scaled[:, varies] = values / (high - low)[varies] * 2 - 1
        result[here] = scaled
    return result


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def load(cache):
    return functools.cache(functools.partial(load_cmapss, data_dir=cache))


@real
@every_subset
def test_engines_are_what_numpy_reads(subset, cache):
    engines = cmapss.load_engines(subset, data_dir=cache)
    counts = []
    for kind in ("train", "test"):
        some = engines[kind]
        rows = np.concatenate([np.hstack([e.settings, e.sensors]) for e in some])
        assert rows.dtype == np.float32
        expected = oracle_rows(kind, subset)
        np.testing.assert_array_equal(rows, expected[:, 2:].astype(np.float32))
        np.testing.assert_array_equal(
            np.repeat([e.unit for e in some], [len(e.sensors) for e in some]),
            expected[:, 0],
        )
        counts += [len(rows), len(some)]
    conditions = [
        np.unique(
            operating_conditions(np.concatenate([e.settings for e in some])), axis=0
        )
        for some in engines.values()
    ]
    assert (*counts, len(conditions[0])) == COUNTS[subset]
    np.testing.assert_array_equal(conditions[0], conditions[1])
    assert {e.rul for e in engines["train"]} == {0}
    lives = [e.rul for e in engines["test"]]
    np.testing.assert_array_equal(lives, oracle_rows("RUL", subset)[:, 0])


@real
@every_subset
def test_test_windows_are_the_last_cycles(subset, load):
    splits = load(subset)
    rows = oracle_rows("train", subset)
    train_rows = rows[np.isin(rows[:, 0], splits.train.groups)]
    num_units = COUNTS[subset][3]
    assert splits.test.inputs.shape == (num_units, 30, 14)
    assert splits.test.inputs.dtype == splits.test.targets.dtype == np.float32
    np.testing.assert_array_equal(splits.test.groups, np.arange(1, num_units + 1))
    short = []
    for unit, window in zip(splits.test.groups, splits.test.inputs, strict=True):
        engine = oracle_engine("test", subset, unit)
        if len(engine) < 30:
            short.append(unit)
            engine = np.concatenate([engine[:1]] * (30 - len(engine)) + [engine])
        expected = oracle_scaled(engine[-30:], train_rows)
        # Sensor 8 reads 2388 with a range of 0.6: float32 leaves 4e-4 of [-1, 1].
        np.testing.assert_allclose(window, expected, atol=1e-3)
    assert splits.padded == {"train": (), "validation": (), "test": tuple(short)}
    assert len(short) == {"FD002": 6, "FD004": 11}.get(subset, 0)
    lives = np.minimum(oracle_rows("RUL", subset)[:, 0], 125)
    np.testing.assert_array_equal(splits.test.targets, lives)


@real
@every_subset
def test_training_windows_and_lives(subset, load):
    splits = load(subset)
    num_rows, num_units = COUNTS[subset][:2]
    train, validation = splits.train, splits.validation
    assert train.inputs.flags.c_contiguous
    assert len(train.inputs) + len(validation.inputs) == num_rows - 29 * num_units
    train_units, validation_units = (
        np.unique(train.groups),
        np.unique(validation.groups),
    )
    assert len(validation_units) == round(0.2 * num_units)
    both = np.concatenate([train_units, validation_units])
    np.testing.assert_array_equal(np.sort(both), np.arange(1, num_units + 1))
    rows = oracle_rows("train", subset)
    train_rows = rows[np.isin(rows[:, 0], train_units)]
    for part, unit in ((train, train_units[3]), (validation, validation_units[-1])):
        engine = oracle_scaled(oracle_engine("train", subset, unit), train_rows)
        inputs = part.inputs[part.groups == unit]
        lives = part.targets[part.groups == unit]
        assert len(inputs) == len(engine) - 29
        for i in (0, 7, len(inputs) - 1):
            np.testing.assert_allclose(inputs[i], engine[i : i + 30], atol=1e-3)
            assert lives[i] == min(len(engine) - (i + 30), 125)


@real
def test_the_scaler_sees_training_engines_only(load):
    splits = load("FD001")
    rows = oracle_rows("train", "FD001")
    train = rows[np.isin(rows[:, 0], splits.train.groups)][:, 4 + SENSORS]
    low, high = train.min(axis=0)[None], train.max(axis=0)[None]
    np.testing.assert_array_equal(splits.scaler.minimum, low.astype(np.float32))
    np.testing.assert_array_equal(splits.scaler.maximum, high.astype(np.float32))
    assert np.abs(splits.train.inputs).max() == 1.0
    assert np.abs(splits.validation.inputs).max() > 1.0


@real
def test_options_do_what_they_say(load):
    usual = load("FD001")
    other = load(
        "FD001",
        window=150,
        rul_cap=math.inf,
        validation_fraction=0.5,
        split_seed=1,
        sensors=(14, 1),
    )
    assert other.train.inputs.shape[1:] == (150, 2)
    assert other.train.targets.max() > 125
    np.testing.assert_array_equal(other.test.targets, oracle_rows("RUL", "FD001")[:, 0])
    assert len(np.unique(other.validation.groups)) == 50
    assert set(usual.validation.groups) - set(other.validation.groups)
    # Sensor 1 is constant on FD001 and must not divide by zero.
    assert np.all(other.train.inputs[..., 1] == 0)
    # Shorter engines stay, one window each: the shortest trained has 128 cycles.
    units, lengths = np.unique(oracle_rows("train", "FD001")[:, 0], return_counts=True)
    padded = other.padded["train"] + other.padded["validation"]
    assert set(padded) == set(units[lengths < 150]) and padded
    part = other.train if other.padded["train"] else other.validation
    unit = (other.padded["train"] or other.padded["validation"])[0]
    (window,) = part.inputs[part.groups == unit]
    missing = 150 - lengths[unit - 1]
    assert np.all(window[:missing] == window[missing])
    assert part.targets[part.groups == unit] == 0
    assert load("FD001", cap_test_rul=False).test.targets.max() == 145


@real
def test_the_second_load_needs_no_files(load, cache, monkeypatch):
    first = load("FD001")
    monkeypatch.delenv("LAGRANGE_JAX_DATA")
    monkeypatch.setattr(cmapss_files, "read_subset", None)
    second = load_cmapss("FD001", data_dir=cache)
    for one, two in zip(first[:3], second[:3], strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    assert list(cache.glob("cmapss/FD001/1.0.0/*.array_record*"))


@real
def test_an_altered_cell_of_the_real_file_is_refused(tmp_path):
    for name in ("test_FD001.txt", "RUL_FD001.txt"):
        packed = Path(DATA, "cmapss", f"{name}.gz").read_bytes()
        (tmp_path / f"{name}.gz").write_bytes(packed)
    text = gzip.decompress(Path(DATA, "cmapss", "train_FD001.txt.gz").read_bytes())
    altered = text.replace(b" 518.67 641.82 ", b" 518.67 641.83 ", 1)
    assert altered != text
    (tmp_path / "train_FD001.txt").write_bytes(altered)
    with pytest.raises(ValueError, match=r"train_FD001.txt, line 20631: .*sha256"):
        read_subset(tmp_path, "FD001")
    (tmp_path / "train_FD001.txt").write_bytes(text)
    assert len(read_subset(tmp_path, "FD001")["train"]) == 100


@real
@every_subset
def test_the_numbers_decide_and_not_the_blanks(subset, tmp_path):
    for kind in ("train", "test", "RUL"):
        packed = Path(DATA, "cmapss", f"{kind}_{subset}.txt.gz").read_bytes()
        lines = [line.rstrip() for line in gzip.decompress(packed).splitlines()]
        # Without the blanks at the ends of lines, as many repositories hold it.
        (tmp_path / f"{kind}_{subset}.txt").write_bytes(b"\n".join(lines))
    engines = read_subset(tmp_path, subset)
    assert len(engines["train"]) == COUNTS[subset][1]
    rows = np.concatenate([e.sensors for e in engines["train"]])
    expected = oracle_rows("train", subset)[:, 5:].astype(np.float32)
    np.testing.assert_array_equal(rows, expected)


# Tiny data sets in NASA's layout.


def tiny_rows(lengths):
    lines = []
    for unit, length in enumerate(lengths, 1):
        for cycle in range(1, length + 1):
            sensors = [100 * unit + cycle, 7.5, *range(19)]
            settings = [10.001 + 0.001 * (cycle % 3), 0.2503, 100.0]
            lines.append(" ".join(map(str, [unit, cycle, *settings, *sensors])) + "  ")
    return lines


def tiny_texts():
    return {
        "train_FD001.txt": tiny_rows([6, 5, 2, 4]),
        "test_FD001.txt": tiny_rows([4, 1]),
        "RUL_FD001.txt": ["9 ", "3 "],
    }


def encode(lines):
    return "".join(f"{line}\n" for line in lines).encode()


TINY = {
    name: Checksum(len(encode(lines)), hashlib.sha256(encode(lines)).hexdigest())
    for name, lines in tiny_texts().items()
}


def write_plain(folder, texts):
    for name, lines in texts.items():
        (folder / name).write_bytes(encode(lines))


def write_packed(folder, texts):
    for name, lines in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(encode(lines)))


def write_archive(folder, texts):
    with zipfile.ZipFile(folder / "CMAPSSData.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("readme.txt", "about")
        for name, lines in texts.items():
            # As some tools on Windows pack them.
            file.writestr(f"C-MAPSS/{name}", encode(lines).replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("write", [write_plain, write_packed, write_archive])
@pytest.mark.parametrize("inner", ["", "cmapss"])
def test_every_form_is_prepared_without_tensorflow(write, inner, tmp_path):
    folder = tmp_path / "files" / inner
    folder.mkdir(parents=True)
    write(folder, tiny_texts())
    engines = cmapss.load_engines(
        "FD001", manual_dir=tmp_path / "files", data_dir=tmp_path / "c", checksums=TINY
    )
    assert "tensorflow" not in sys.modules
    assert [e.unit for e in engines["train"]] == [1, 2, 3, 4]
    assert [e.sensors.shape for e in engines["train"]] == [
        (6, 21),
        (5, 21),
        (2, 21),
        (4, 21),
    ]
    assert [e.rul for e in engines["test"]] == [9, 3]
    np.testing.assert_array_equal(
        engines["test"][0].sensors[:, 0], 100 + np.arange(1, 5)
    )
    settings = engines["train"][1].settings
    np.testing.assert_array_equal(operating_conditions(settings), [[10, 25, 100]] * 5)


def not_a_number(texts):
    texts["train_FD001.txt"][7] = texts["train_FD001.txt"][7].replace("7.5", "N/A")


def infinite(texts):
    texts["test_FD001.txt"][1] = texts["test_FD001.txt"][1].replace("7.5", "1e999")


def cut_in_a_line(texts):
    texts["train_FD001.txt"] = [*texts["train_FD001.txt"][:9], "2 4 10.0 0.2"]


def cut_between_lines(texts):
    texts["train_FD001.txt"] = texts["train_FD001.txt"][:9]


def extra_column(texts):
    texts["test_FD001.txt"][3] += "1.0"


def blank_line(texts):
    texts["train_FD001.txt"].insert(4, "")


def no_line(texts):
    texts["train_FD001.txt"] = []


def missing_cycle(texts):
    del texts["train_FD001.txt"][3]


def missing_test_cycle(texts):
    del texts["test_FD001.txt"][1]


def missing_unit(texts):
    del texts["train_FD001.txt"][6:11]


def moved_rows(texts):
    texts["test_FD001.txt"] += texts["train_FD001.txt"][11:13]
    del texts["train_FD001.txt"][11:13]


def moved_unit(texts):
    texts["test_FD001.txt"] += texts["train_FD001.txt"][11:13]


def repeated_row(texts):
    texts["train_FD001.txt"].insert(2, texts["train_FD001.txt"][1])


def missing_life(texts):
    texts["RUL_FD001.txt"].pop()


def extra_life(texts):
    texts["RUL_FD001.txt"].append("5")


def negative_life(texts):
    texts["RUL_FD001.txt"][1] = "-1"


def changed_value(texts):
    texts["test_FD001.txt"][0] = texts["test_FD001.txt"][0].replace("7.5", "7.6")


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (not_a_number, r"train_FD001.txt, line 8: column 7 is 'N/A'"),
        (infinite, r"test_FD001.txt, line 2: column 7 is '1e999'"),
        (cut_in_a_line, r"train_FD001.txt, line 10: 4 columns, expected 26"),
        (cut_between_lines, r"train_FD001.txt, line 9: .* bytes and sha256"),
        (extra_column, r"test_FD001.txt, line 4: 27 columns, expected 26"),
        (blank_line, r"train_FD001.txt, line 5: 0 columns, expected 26"),
        (no_line, r"train_FD001.txt, line 1: 0 columns, expected 26"),
        (missing_cycle, r"train_FD001.txt, line 4: unit 1 cycle 5 follows unit 1 cy"),
        (missing_test_cycle, r"test_FD001.txt, line 2: unit 1 cycle 3 follows unit 1"),
        (missing_unit, r"train_FD001.txt, line 7: unit 3 cycle 1 follows unit 1 cycle"),
        (moved_rows, r"train_FD001.txt, line 12: unit 4 cycle 1 follows unit 2 cycle"),
        (moved_unit, r"test_FD001.txt, line 6: unit 3 has no line in RUL_FD001.txt"),
        (repeated_row, r"train_FD001.txt, line 3: unit 1 cycle 2 follows unit 1 cycle"),
        (missing_life, r"test_FD001.txt, line 5: unit 2 has no line in RUL_FD001.txt"),
        (extra_life, r"RUL_FD001.txt, line 3: a life without an engine"),
        (negative_life, r"RUL_FD001.txt, line 2: -1 is not a number of cycles"),
        (changed_value, r"test_FD001.txt, line 5: every line reads well"),
    ],
)
def test_altered_files_are_refused_with_file_and_line(alter, message, tmp_path):
    texts = tiny_texts()
    alter(texts)
    write_plain(tmp_path, texts)
    with pytest.raises(ValueError, match=message) as error:
        read_subset(tmp_path, "FD001", TINY)
    assert "CMAPSSData.zip" in str(error.value)


def test_a_refused_file_leaves_nothing_prepared(tmp_path):
    texts = tiny_texts()
    not_a_number(texts)
    folder = tmp_path / "files"
    folder.mkdir()
    write_plain(folder, texts)
    options = {"manual_dir": folder, "data_dir": tmp_path / "c", "checksums": TINY}
    with pytest.raises(ValueError, match=r"train_FD001.txt, line 8: column 7"):
        cmapss.load_engines("FD001", **options)
    write_plain(folder, tiny_texts())
    assert len(cmapss.load_engines("FD001", **options)["train"]) == 4


def test_damaged_archives_are_refused(tmp_path):
    write_packed(tmp_path, tiny_texts())
    packed = tmp_path / "train_FD001.txt.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train_FD001.txt .* damaged or cut short"):
        read_subset(tmp_path, "FD001", TINY)
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "CMAPSSData.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"train_FD001.txt .* damaged or cut short"):
        read_subset(tmp_path, "FD001", TINY)


@pytest.mark.parametrize("name", ["../train_FD001.txt", "/train_FD001.txt", "a\\..\\b"])
def test_an_archive_that_leads_outside_is_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "CMAPSSData.zip", "w") as file:
        file.writestr(name, "1 1")
    with pytest.raises(ValueError, match="leads out of the archive"):
        read_subset(tmp_path, "FD001", TINY)


@pytest.mark.parametrize("write", [write_plain, write_packed, write_archive])
def test_absurd_sizes_are_not_read(write, tmp_path, monkeypatch):
    write(tmp_path, tiny_texts())
    monkeypatch.setattr(manual_files, "_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read_subset(tmp_path, "FD001", TINY)


def test_missing_data_say_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.delenv("LAGRANGE_JAX_DATA", raising=False)
    wanted = r"(?s){}.*NASA.*CMAPSSData.zip.*LAGRANGE_JAX_DATA"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "unrelated").touch()
    for folder, start in (
        (None, "No folder with the cmapss files is named"),
        (tmp_path / "absent", "absent is not a folder"),
        (empty, "train_FD001.txt is not in"),
    ):
        with pytest.raises(FileNotFoundError, match=wanted.format(start)):
            load_cmapss(manual_dir=folder, data_dir=tmp_path / "c")


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "importlib_resources"])
def test_a_missing_extra_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    wanted = rf"{missing}: pip install lagrange-jax\[data\]"
    with pytest.raises(ModuleNotFoundError, match=wanted):
        load_cmapss(data_dir=tmp_path)


def test_parquet_serves_where_array_record_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_file_format", lambda: "parquet")
    write_plain(tmp_path, tiny_texts())
    read = read_subset(tmp_path, "FD001", TINY)
    options = {"data_dir": tmp_path / "c", "checksums": TINY}
    loaded = cmapss.load_engines("FD001", manual_dir=tmp_path, **options)
    assert list(tmp_path.glob("c/cmapss/FD001/1.0.0/*.parquet*"))
    for kind, engines in read.items():
        for one, two in zip(engines, loaded[kind], strict=True):
            assert (one.unit, one.rul) == (two.unit, two.rul)
            np.testing.assert_array_equal(one.settings, two.settings)
            np.testing.assert_array_equal(one.sensors, two.sensors)


def test_importing_the_data_modules_is_light():
    code = (
        "import sys, lagrange_jax.datasets; "
        "print({'tensorflow', 'tensorflow_datasets'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_another_process_may_prepare_first(tmp_path):
    target = tmp_path / "prepared"

    def fail(download_config):
        raise OSError("Directory not empty")

    builder = types.SimpleNamespace(download_and_prepare=fail, data_path=target)
    with pytest.raises(OSError, match="not empty"):
        tfds._prepare(builder, tmp_path)
    target.mkdir()
    tfds._prepare(builder, tmp_path)


# Splits and scaling of made-up engines.


def engine(unit, length, rul=0, *, constant=3.0):
    sensors = np.full((length, 21), constant, np.float32)
    sensors[:, 0] = 100 * unit + np.arange(length)
    settings = np.tile(np.array([0.0, 0.0, 100.0], np.float32), (length, 1))
    return Engine(unit, settings, sensors, rul)


def test_short_engines_give_one_padded_window():
    engines = [engine(unit, length) for unit, length in enumerate((6, 5, 2, 4), 1)]
    splits = make_splits(engines, [engine(1, 4, 9), engine(2, 1, 3)], **OPTIONS)
    assert splits.padded["test"] == (2,)
    assert splits.padded["train"] + splits.padded["validation"] == (3,)
    windows = np.concatenate([splits.train.groups, splits.validation.groups])
    np.testing.assert_array_equal(np.bincount(windows), [0, 4, 3, 1, 2])
    assert np.ptp(splits.test.inputs[1], axis=0).max() == 0
    np.testing.assert_array_equal(splits.test.targets, [4, 3])
    short = splits.train if splits.padded["train"] else splits.validation
    assert short.targets[short.groups == 3] == [0]
    uncapped = make_splits(
        engines, [engine(1, 4, 9)], **{**OPTIONS, "cap_test_rul": False}
    )
    np.testing.assert_array_equal(uncapped.test.targets, [9])
    np.testing.assert_array_equal(
        uncapped.train.targets[uncapped.train.groups == 1], [3, 2, 1, 0]
    )


def test_a_constant_sensor_becomes_zero_and_ranges_are_by_condition():
    settings = np.array([[0, 0, 100], [0.002, 0.001, 100], [42, 0.84, 100]], np.float32)
    settings = np.repeat(settings, 2, axis=0)
    values = np.array([[0, 5], [4, 5], [2, 5], [1, 5], [10, 5], [20, 6]], np.float32)
    scaler = fit_scaler(settings, values)
    np.testing.assert_array_equal(scaler.conditions, [[0, 0, 100], [42, 84, 100]])
    scaled = apply_scaler(scaler, settings, values)
    expected = [[-1, 0], [1, 0], [0, 0], [-0.5, 0], [-1, -1], [1, 1]]
    np.testing.assert_array_equal(scaled, expected)
    assert np.all(apply_scaler(scaler, settings[:1], values[:1] + 3)[:, 1] == 0)
    with pytest.raises(ValueError, match="none of the 2 operating conditions"):
        apply_scaler(scaler, settings[:1] + np.float32(25), values[:1])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"rul_cap": 0.0}, "rul_cap must be positive"),
        ({"rul_cap": math.nan}, "rul_cap must be positive"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \(0, 1\)"),
        ({"validation_fraction": 0.1}, "No engine is left for validation"),
        ({"sensors": ()}, "distinct numbers in 1..21"),
        ({"sensors": (0, 1)}, "distinct numbers in 1..21"),
        ({"sensors": (2, 2)}, "distinct numbers in 1..21"),
        ({"sensors": (22,)}, "distinct numbers in 1..21"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    engines = [engine(unit, 5) for unit in range(1, 4)]
    with pytest.raises(ValueError, match=message):
        make_splits(engines, engines, **{**OPTIONS, **option})


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ({"window": 3.0}, "window as an integer; got 3.0"),
        ({"window": np.array([3, 4])}, "window as an integer"),
        ({"split_seed": None}, "split_seed as an integer; got None"),
        ({"rul_cap": None}, r"rul_cap as a number \(math.inf: no cap\); got None"),
        ({"validation_fraction": "20%"}, "validation_fraction as a number; got '20%'"),
        ({"cap_test_rul": "no"}, "cap_test_rul as True or False; got 'no'"),
        ({"sensors": 2}, "sensors as a list of integers, .*; got 2"),
        ({"sensors": "23"}, "sensors as a list of integers, .*; got '23'"),
        ({"sensors": {2, 3}}, "sensors as a list of integers"),
        ({"sensors": np.array(2)}, "sensors as a list of integers"),
        ({"sensors": ["s_2", "s_3"]}, r"sensors\[0\] as an integer; got 's_2'"),
        ({"sensors": (2, 3.0)}, r"sensors\[1\] as an integer; got 3.0"),
        ({"sensors": (True, 2)}, r"sensors\[0\] as an integer; got True"),
    ],
)
def test_options_of_another_type_are_refused(option, wanted):
    engines = [engine(unit, 5) for unit in range(1, 6)]
    with pytest.raises(TypeError, match=f"^expected {wanted}"):
        make_splits(engines, engines, **{**OPTIONS, **option})


def test_numbers_of_numpy_are_options_too():
    engines = [engine(unit, 5) for unit in range(1, 6)]
    same = {"window": np.int32(3), "rul_cap": np.float32(4), "sensors": np.arange(1, 3)}
    found = make_splits(engines, engines, **{**OPTIONS, **same})
    wanted = make_splits(engines, engines, **OPTIONS)
    np.testing.assert_array_equal(found.train.inputs, wanted.train.inputs)
    np.testing.assert_array_equal(found.test.targets, wanted.test.targets)


def test_an_unknown_subset_is_refused():
    with pytest.raises(ValueError, match="FD001, FD002, FD003, FD004, got 'FD005'"):
        load_cmapss("FD005")
