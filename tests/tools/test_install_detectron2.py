import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install_detectron2.py"


@pytest.fixture
def installer():
    spec = importlib.util.spec_from_file_location("install_detectron2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # NamedTuple looks up its module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def pip_calls(installer, monkeypatch):
    calls = []
    monkeypatch.setattr(installer, "pip", lambda *args, cwd=None: calls.append(args))
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py"])
    return calls


def test_an_importable_detectron2_is_used_and_nothing_is_installed():
    result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "is already installed; using it" in result.stdout


def test_a_broken_detectron2_is_reported_and_not_replaced(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "PATH": ""}
    result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=env)
    assert result.returncode == 1
    assert "No module named 'no_such_module'" in result.stderr
    assert "pip uninstall detectron2" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_from_git_installs_the_repository_at_the_reference(installer, pip_calls, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--from-git", "v0.6"])
    versions = iter([None, "0.6 in /somewhere"])
    monkeypatch.setattr(installer, "find_installed", lambda: next(versions))
    assert installer.main() == 0
    assert pip_calls[-1][-1] == f"git+{installer.REPOSITORY}@v0.6"


def test_the_error_without_torch_says_what_to_install_first(
    installer, pip_calls, monkeypatch, capsys
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert installer.main() == 1
    assert "install torch and torchvision first" in capsys.readouterr().err
    assert pip_calls == []


def test_the_hash_of_the_downloaded_archive_is_checked(installer, monkeypatch):
    request = {}

    def download(*args, cwd=None):
        request["args"], request["file"] = args, (cwd / "archive.txt").read_text()
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(installer, "pip", download)
    with pytest.raises(subprocess.CalledProcessError):
        installer.install_archive()
    assert "--require-hashes" in request["args"]
    assert request["file"] == f"{installer.ARCHIVE} --hash=sha256:{installer.SHA256}\n"


def test_a_patch_that_does_not_match_raises_runtime_error(installer, tmp_path):
    (tmp_path / "setup.py").write_text("nothing that the patches look for\n")
    with pytest.raises(RuntimeError, match="expected 1 matches of .*, got 0"):
        installer.apply_fixes(tmp_path)


def test_patches_replace_removed_names_and_keep_similar_names(installer, tmp_path, monkeypatch):
    module = tmp_path / "detectron2" / "data" / "transforms" / "transform.py"
    module.parent.mkdir(parents=True)
    module.write_text("a = np.bool(1)\nb = np.bool_(1)\nc = Image.LINEAR\nd = np.floating\n")
    (tmp_path / "detectron2" / "model_zoo" / "configs").mkdir(parents=True)
    fixes = [fix for fix in installer.FIXES if "np" in fix.pattern or "LINEAR" in fix.pattern]
    monkeypatch.setattr(installer, "FIXES", [fix._replace(count=1) for fix in fixes])
    installer.apply_fixes(tmp_path)
    patched = "a = bool(1)\nb = np.bool_(1)\nc = Image.BILINEAR\nd = np.floating\n"
    assert module.read_text() == patched
    assert (tmp_path / "configs").is_dir()


def test_the_installed_detectron2_has_a_model_zoo_and_imports_without_compiled_operators():
    from detectron2 import model_zoo
    from detectron2.layers import DeformConv  # noqa: F401 - imports where _C is missing

    assert Path(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")).is_file()
