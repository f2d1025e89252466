import json

from ranking_det.files import read_metrics
from ranking_det.visualization.training_curves import plot_curves


def test_curves_are_drawn_from_metrics_with_a_truncated_last_line(tmp_path):
    lines = [{"iteration": i, "total_loss": 1.0, "loss_rank": 1 / (i + 1)} for i in (0, 20, 10, 30)]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"iteration": 40, "tot'
    (tmp_path / "metrics.json").write_text(text)
    assert [r["iteration"] for r in read_metrics(tmp_path / "metrics.json")] == [0, 10, 20, 30]
    plot_curves(tmp_path / "metrics.json", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
