"""Check README and docs: code runs, commands parse, links and numbers are right."""

import ast
import inspect
import json
import os
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import quick
from benchmarks.docs import BLOCK, BLOCKS, fill
from ranking_det import losses
from ranking_det.analysis import __main__ as analysis
from ranking_det.data import convert
from ranking_det.engine.command import parse
from ranking_det.engine.run_config import load_config
from ranking_det.evaluation import command_line as evaluation

ROOT = Path(__file__).parents[1]
ABLATIONS = ROOT / "configs" / "ablations" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ABLATIONS]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
every_page = pytest.mark.parametrize("page", TEXTS)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PARSERS = {
    "ranking_det.analysis": analysis.build_parser,
    "ranking_det.data.convert": convert.build_parser,
    "ranking_det.evaluation": evaluation.build_parser,
}
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]+\b")
BRITISH = re.compile(
    r"colour|centre|neighbour|behaviour|grey|modelling|labelled|(?:local|normal|recogn|initial"
    r"|optim|minim|maxim|general|serial|organ|summar|visual|synchron|raster)is(?:e|ing|ation)",
    re.IGNORECASE,
)


def python_blocks():
    for page, text in TEXTS.items():
        blocks = (code for language, code in FENCE.findall(text) if language == "python")
        for number, code in enumerate(blocks):
            yield pytest.param(code, id=f"{page}-{number}")


def commands():
    """Yield the commands in all shell fences, with continued lines joined."""
    for page, text in TEXTS.items():
        for language, code in FENCE.findall(text):
            if language not in ("", "bash", "sh", "console"):
                continue
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield page, words


def train_commands():
    for page, words in commands():
        trains = words[:2] == ["python", "train_net.py"]
        # CONFIG stands for any config. The config that a run saves exists only after the run.
        if trains and words[3] != "CONFIG" and not words[3].startswith("output/"):
            yield pytest.param(words[2:], id=f"{page}: {' '.join(words[2:])[:90]}")


@pytest.mark.parametrize("code", python_blocks())
def test_the_python_code_in_the_docs_runs(code, monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.chdir(ROOT)
    # Config fragments set nodes of a model, so provide one.
    nodes = {"assigner": None, "criterion": None}
    exec(code, {"model": OmegaConf.create(nodes, flags={"allow_objects": True})})


def test_the_criterion_in_the_readme_can_be_built():
    from detectron2.config import instantiate
    from omegaconf import OmegaConf

    blocks = FENCE.findall(TEXTS["README.md"])
    (code,) = (code for language, code in blocks if "model.criterion =" in code)
    nodes = {"assigner": None, "criterion": None}
    model = OmegaConf.create(nodes, flags={"allow_objects": True})
    exec(code, {"model": model})
    assert instantiate(model.criterion).balance.weight == 2.0
    assert instantiate(model.assigner).topk == 9


@pytest.mark.parametrize("words", train_commands())
def test_commands_name_configs_and_keys_that_exist(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = parse(words)
    load_config(command.config_file, command.overrides, trust=True)


def test_the_flags_of_all_training_commands_exist():
    """This includes commands with the config that a run saves, and those for torchrun."""
    for _, words in commands():
        if "train_net.py" in words:
            parse(words[words.index("train_net.py") + 1 :])


def test_the_arguments_of_module_commands_are_accepted():
    for page, words in commands():
        if words[:2] == ["python", "-m"] and len(words) > 3:
            _, overrides = PARSERS[words[2]]().parse_known_args(words[3:])
            assert all("=" in word for word in overrides), f"{page}: {' '.join(words)}"


def test_modules_and_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page, words in commands():
        if words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), f"{page}: no module {words[2]}"
        elif words[0] == "python" and not PLACEHOLDER.search(words[1]):
            assert (ROOT / words[1]).exists(), f"{page}: no file {words[1]}"
        elif words[0] == "make":
            for target in words[1:]:
                assert "=" in target or target in targets, f"{page}: make has no {target}"


def anchors(text):
    """Return the anchors of the headings: lower case, spaces to hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@every_page
def test_relative_links_and_their_anchors_exist(page):
    text = FENCE.sub("", TEXTS[page])
    links = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", text)
    for link in (markdown or html for markdown, html in links):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page} links to {link}"


@every_page
def test_the_numbers_equal_the_committed_results(page):
    if page != "docs/configs.md":  # tests/configs/test_all_configs.py checks it
        assert fill(TEXTS[page]) == TEXTS[page]


def test_the_table_of_losses_shows_the_signature_of_every_function():
    table = TEXTS["docs/losses.md"].partition("| call | it optimizes |")[2].partition("\n\n")[0]
    calls = [call for row in table.splitlines() for call in re.findall(r"`(\w+\(.*?\))`", row)]
    expected = []
    for name, function in inspect.getmembers(losses, inspect.isfunction):
        parameters = inspect.signature(function).parameters.values()
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        expected.append(f"{name}{inspect.Signature(bare)}")
    assert sorted(call for call in calls if call.partition("(")[0] in dir(losses)) == expected


def test_every_generated_block_is_used_once():
    names = [match["name"] for text in TEXTS.values() for match in BLOCK.finditer(text)]
    assert sorted(names) == sorted(BLOCKS)


def test_prose_and_code_have_american_spelling():
    folders = ("ranking_det", "configs", "examples", "tools", "benchmarks")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    texts = TEXTS | {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    words = {
        name: BRITISH.findall(text.replace("Localisation in Object Detection", ""))  # a title
        for name, text in texts.items()
    }
    assert {name: found for name, found in words.items() if found} == {}


def test_the_readme_has_at_most_180_lines():
    assert TEXTS["README.md"].count("\n") <= 180


def test_rerunning_a_quick_config_keeps_the_results_of_other_configs(tmp_path, monkeypatch):
    path = tmp_path / "results" / "quick.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps({"seed": 0, "runs": {"faster_rs": {"machine": "old"}, "mask_rs": {}}})
    )
    monkeypatch.setattr(quick, "__file__", str(tmp_path / "quick.py"))
    monkeypatch.setattr("sys.argv", ["quick", "mask_rs"])
    monkeypatch.setattr(quick, "train", lambda *args, **options: (1.0, {"bbox": {"AP": 2.0}}))
    quick.main()
    runs = json.loads(path.read_text())["runs"]
    assert runs["faster_rs"] == {"machine": "old"}
    run = runs["mask_rs"]
    assert run["minutes"] == 1.0 and run["machine"]["cores"] == os.cpu_count()
    monkeypatch.setattr("sys.argv", ["quick", "unknown"])
    with pytest.raises(SystemExit, match="2"):
        quick.main()


def messages_of_the_package():
    """Yield all string constants of the package, and the constant parts of its f-strings."""
    for path in [ROOT / "train_net.py", *(ROOT / "ranking_det").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                constants = (part for part in node.values if isinstance(part, ast.Constant))
                # An f-string consists of the constant parts between its values.
                yield from (str(part.value) for part in constants)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_package_has_the_messages_of_the_troubleshooting_page():
    messages = "\n".join(messages_of_the_package())
    tables = re.split(r"^## ", TEXTS["docs/troubleshooting.md"], flags=re.MULTILINE)[1:-1]
    cells = [
        cell
        for table in tables
        for cell in re.findall(r"^\| ((?:boxes that )?`.+?) \|", table, re.MULTILINE)
    ]
    assert len(cells) > 30
    for quoted in re.findall(r"`([^`]+)`", "\n".join(cells)):
        # Values in a message: quoted names, numbers, optimizers, signals, disk errors.
        values = r"'[^']*'|\b\d+\b|\b(?:SGD|AdamW|SIG\w+|torch)\b|\(No space.*|\(did.*"
        for piece in filter(None, map(str.strip, re.split(values, quoted))):
            assert piece in messages, f"{quoted}: no message has {piece!r}"
