"""The doctor's report on this environment, and on environments broken in common ways."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ranking_det.doctor import diagnosis, report, runner
from ranking_det.doctor.probes import PROBES, SAFE_TORCH, nvidia_smi

ROOT = Path(__file__).parents[1]
QUICK_TORCHVISION = "class ops:\n    nms = print"  # importing the real one takes seconds
PILLOW_10 = "raise AttributeError(\"module 'PIL.Image' has no attribute 'LINEAR'\")"


def run(folder, *args, **fakes):
    """Run the doctor with fake packages first on the path; return its exit status and lines."""
    for name, source in fakes.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source + "\n")
    # Detectron2 may come from the given path.
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}
    command = [sys.executable, "-m", "ranking_det.doctor", *args]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert result.stderr == ""
    assert "Traceback" not in result.stdout
    return result.returncode, result.stdout.splitlines()


def finding(lines, name):
    """Return a check's status, its line, and the line below it, which has the remedy."""
    (i,) = (i for i, line in enumerate(lines) if line[9:].startswith(f"{name}  "))
    return lines[i][:8].strip(), lines[i], lines[i + 1]


def test_the_doctor_reports_no_false_faults_on_this_machine(tmp_path):
    status, lines = run(tmp_path, "--json")
    content = json.loads("\n".join(lines))
    checks = {check["name"]: check for check in content["checks"]}
    assert set(PROBES) <= set(checks)
    faults = [check for check in checks.values() if check["status"] == "FAULT"]
    assert (status, content["faults"]) == (bool(faults), len(faults))
    # Other tests could not run without these, so a fault in one of them is false.
    working = ["numpy", "Pillow", "torch", "torch, numpy", "torchvision", "Detectron2", "losses"]
    assert [name for name in working if checks[name]["status"] != "ok"] == []
    assert content["facts"]["detectron2"].startswith("0.6, ")


def test_the_doctor_lists_the_packages_that_setup_py_requires():
    (call,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "setup"
    )
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    extras = ast.literal_eval(arguments["extras_require"])
    required = ast.literal_eval(arguments["install_requires"]) + extras["detectors"]
    listed = {"opencv-python-headless" if name == "opencv" else name for name in report.REQUIRED}
    assert package_names(required) <= listed
    installer = runpy.run_path(str(ROOT / "tools" / "install_detectron2.py"))
    of_detectron2 = {"detectron2"} | package_names(installer["REQUIREMENTS"])
    assert listed - package_names(required) <= of_detectron2
    assert package_names(extras["timm"] + extras["lite"]) <= set(report.OPTIONAL)


def package_names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_a_detectron2_too_old_for_pillow_10_is_reported_with_its_remedy(tmp_path):
    status, lines = run(tmp_path, detectron2=PILLOW_10, torchvision=QUICK_TORCHVISION)
    level, text, remedy = finding(lines, "Detectron2")
    assert (status, level, lines[-1]) == (1, "FAULT", "1 fault")
    assert "Pillow 10 removed Image.LINEAR" in text and str(tmp_path / "detectron2") in text
    assert "tools/install_detectron2.py" in remedy
    assert finding(lines, "training")[0] == "skipped"
    assert finding(lines, "losses")[0] == "ok"  # they do not need Detectron2


@pytest.mark.parametrize(
    ("source", "text", "remedy"),
    [
        (
            "raise OSError('libcudart.so.12: cannot open')",
            "OSError: libcudart",
            "--force-reinstall",
        ),
        (
            "raise ModuleNotFoundError(\"No module named 'torch'\")",
            "torch is not installed",
            "pip install torch torchvision",
        ),
        ("import os; os.abort()", "crashes the interpreter (SIGABRT)", "--force-reinstall"),
        ("raise SystemExit(0)", "SystemExit: 0", "--force-reinstall"),
    ],
    ids=["raises", "absent", "crashes", "exits"],
)
def test_a_torch_that_cannot_be_imported_is_reported_and_other_packages_are_still_checked(
    tmp_path, source, text, remedy
):
    status, lines = run(tmp_path, torch=source)
    level, line, below = finding(lines, "torch")
    assert (status, level, lines[-1]) == (1, "FAULT", "1 fault")
    assert text in line
    assert remedy in below and "install" in below and "torch torchvision" in below
    assert finding(lines, "pycocotools")[0] == "ok"
    for name in ("torchvision", "GPU", "Detectron2", "losses", "training"):
        assert finding(lines, name)[0] == "skipped"


def test_output_that_packages_print_does_not_corrupt_the_report(tmp_path):
    failing_import = 'print(\'["torch", "ok", ""]\'); raise RuntimeError(\'two\\nlines\')'
    status, lines = run(tmp_path, torch=failing_import, numpy=failing_import, PIL=failing_import)
    assert (status, lines[-1]) == (1, "3 faults")
    assert "RuntimeError: two lines" in finding(lines, "numpy")[1]


def test_a_folder_that_hides_a_package_is_reported(tmp_path, monkeypatch):
    (tmp_path / "hidden_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    remedies = diagnosis.Remedies("hidden_package", "absent", "broken")
    error = ModuleNotFoundError("No module named 'hidden_package.x'", name="hidden_package.x")
    check = diagnosis.diagnose("name", remedies, error)
    assert "is a folder without a package, and hides" in check.text
    assert check.remedy == f"run this in another folder, or rename {tmp_path / 'hidden_package'}"


@pytest.mark.parametrize(
    ("probe", "error", "remedy"),
    [
        ("model zoo", ModuleNotFoundError("No module named 'pkg_resources'"), '"setuptools<81"'),
        ("Detectron2", ModuleNotFoundError("No module named 'yacs'"), "--requirements"),
        ("Detectron2", AttributeError("module 'numpy' has no attribute 'bool'."), "uninstall"),
        ("torchvision", RuntimeError("operator torchvision::nms does not exist"), "torchvision"),
        ("torch, numpy", RuntimeError("Numpy is not available"), "--upgrade torch"),
        (
            "training",
            ImportError("libGL.so.1: cannot open shared object"),
            "opencv-python-headless",
        ),
        ("training", ModuleNotFoundError("No module named 'cv2'"), '".[detectors]"'),
    ],
)
def test_known_error_messages_get_their_remedies(probe, error, remedy):
    check = diagnosis.diagnose(probe, PROBES[probe].remedies, error)
    assert check.status == "FAULT" and str(error) in check.text and remedy in check.remedy


def test_a_torch_that_loads_weights_unsafely_is_reported(monkeypatch):
    torch = pytest.importorskip("torch")
    probe = PROBES["weight files"]
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(
        diagnosis.Finding, match=r"torch 2\.9\.1\+cpu, older than 2\.10 \(CVE"
    ) as caught:
        probe.run()
    check = diagnosis.diagnose("weight files", probe.remedies, caught.value)
    assert check.status == "FAULT" and "--upgrade torch torchvision" in check.remedy
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert "without a known vulnerability" in probe.run()
    assert f'"torch>={SAFE_TORCH}"' in (ROOT / "setup.py").read_text()


def test_uses_of_removed_numpy_names_are_found_without_calling_the_functions(tmp_path):
    from ranking_det.doctor.probes import _check_aliases

    (tmp_path / "masks.py").write_text("def f(x):\n    return x.astype(np.float32), np.bool_\n")
    _check_aliases(tmp_path)
    (tmp_path / "masks.py").write_text("def f(x):\n    return x.astype(np.float)\n")
    with pytest.raises(
        diagnosis.Finding, match=r"np\.float, which .* does not have, in .*masks\.py"
    ):
        _check_aliases(tmp_path)


def test_a_probe_that_hangs_is_stopped_and_earlier_output_is_kept(monkeypatch):
    monkeypatch.setattr(runner, "LIMIT", 1)
    lines, outcome = runner._run("import time; print('output', flush=True); time.sleep(60)")
    assert (lines, outcome) == (["output"], "does not finish within 1 seconds")


def test_a_fault_in_an_optional_package_is_only_a_note(monkeypatch):
    lines = [json.dumps([name, "ok", ""]) for name in PROBES if name != "model zoo"]
    lines.append(json.dumps(["model zoo", "FAULT", "no pkg_resources", "a remedy"]))
    monkeypatch.setattr(runner, "_run", lambda code: (lines, ""))
    checks = {check.name: check for check in runner.run_probes()}
    assert checks["model zoo"].status == "note"
    assert report.format_checks(list(checks.values()), 0).splitlines()[-1] == "all is well (1 note)"


def test_a_gpu_is_reported_without_torch(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'NVIDIA A100, 550.54\\nNVIDIA A100, 550.54\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert nvidia_smi() == "2 x NVIDIA A100, driver 550.54"


def test_remedies_name_the_interpreter_unless_it_is_first_on_the_path(tmp_path, monkeypatch):
    remedy = "pip uninstall -y detectron2; python tools/install_detectron2.py"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    path = sys.executable
    assert report.for_this_python(remedy) == (
        f"{path} -m pip uninstall -y detectron2; {path} tools/install_detectron2.py"
    )
    for name in ("python", "pip"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert report.for_this_python(remedy) == remedy
