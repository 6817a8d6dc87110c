import numpy as np
import pytest

pytest.importorskip("matplotlib")

import quashdb  # noqa: E402
from quashdb import plot  # noqa: E402


@pytest.fixture
def database(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 16)) * 4
    kinds = rng.integers(3, size=400)
    with quashdb.open(tmp_path / "a.qdb") as db:
        c = db.create_collection("c", 16, fields={"kind": str})
        c.add(np.arange(400), centres[kinds] + rng.standard_normal((400, 16)),
              [{"kind": f"k{kind}"} for kind in kinds])  # fmt: skip
        yield db


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_recall_curve(database, tmp_path):
    points = plot.recall_curve(database["c"], tmp_path / "r.png", sample=50)
    assert is_png(tmp_path / "r.png")
    assert points["default"][0] > 0.95 and points["256"][0] == 1
    assert [r for r, _ in points.values()][1:] == sorted(r for r, _ in list(points.values())[1:])


def test_projection_separates_clusters(database, tmp_path):
    places = plot.projection(database["c"], tmp_path / "m.png", by="kind", sample=400)
    assert is_png(tmp_path / "m.png") and places.shape == (400, 2)
    kinds = np.array([row.metadata["kind"] for row in database["c"].get()])
    within = np.mean([places[kinds == k].std(axis=0).mean() for k in set(kinds)])
    assert places.std(axis=0).mean() > 2 * within
    with pytest.raises(quashdb.NotFoundError, match="no field 'x'"):
        plot.projection(database["c"], tmp_path / "m.png", by="x")


def test_command_beside_a_writer(database, tmp_path, capsys):
    path = str(tmp_path / "a.qdb")
    database.checkpoint()
    assert plot.main([path, "c", str(tmp_path / "r.png"), "--sample", "20"]) == 0
    assert "default" in capsys.readouterr().out and is_png(tmp_path / "r.png")
    assert plot.main([path, "c", str(tmp_path / "m.png"), "--kind", "map", "--by", "kind"]) == 0
    assert plot.main([path, "absent", str(tmp_path / "x.png")]) == 1
    assert "Error:" in capsys.readouterr().err
    database.create_collection("empty", 4)
    assert plot.main([path, "empty", str(tmp_path / "x.png")]) == 1
