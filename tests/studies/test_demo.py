"""The demo runs at a small size, resumes, and draws from its record."""

from experiments import launch
from experiments.common import record


def test_smoke(tmp_path, capsys):
    arguments = ["demo", "--smoke", "--out", str(tmp_path / "run")]
    assert launch.main(arguments) == 0
    table = capsys.readouterr().out
    assert "Lagrangian" in table and "Kaiming" in table
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    rows = record.read_rows(tmp_path / "run")
    assert launch.main(arguments) == 0
    assert record.read_rows(tmp_path / "run") == rows


def test_the_lagrangian_head_starts_lowest(tmp_path):
    launch.main(["demo", "--smoke", "--out", str(tmp_path)])
    arrays = record.read_arrays(tmp_path)
    start = {
        name.split("/")[1]: values[..., 0].mean()
        for name, values in arrays.items()
        if name.endswith("/train")
    }
    assert min(start, key=lambda method: start[method]) == "Lagrangian"
