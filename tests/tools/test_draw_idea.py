"""The picture of the idea is not drawn by --help or a wrong option."""

import sys

import draw_idea
import pytest


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--dpi", 2), ("picture.svg", 2)])
def test_an_option_does_not_replace_the_picture(option, status, tmp_path, monkeypatch):
    monkeypatch.setattr(draw_idea, "PICTURE", tmp_path / "idea.svg")
    monkeypatch.setattr(sys, "argv", ["draw_idea.py", option])
    with pytest.raises(SystemExit) as stop:
        draw_idea.main()
    assert stop.value.code == status and not draw_idea.PICTURE.exists()
