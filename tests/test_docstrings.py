"""Check that docstrings of the public API document every argument, return value and error."""

import ast
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("losses", "criteria", "assigners", "layers")
MODULES = ("boxes.py", "checks.py", "labels.py", "row_blocks.py")
PATHS = sorted(
    [path for folder in FOLDERS for path in (ROOT / "ranking_det" / folder).rglob("*.py")]
    + [ROOT / "ranking_det" / name for name in MODULES]
)

MAX_FIRST_LINE = 100
CONSTRUCTORS = ("__init__", "__post_init__")
RECORD_BASES = ("NamedTuple", "TypedDict")
CHECK = re.compile(r"_?check(_|$)")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes):")
ENTRY = re.compile(r" {4}\*{0,2}(\w+):(?: \S|$)")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def find_omissions(source):
    """Find the (line, name, omission) of all omissions in the docstrings of a module."""
    tree = ast.parse(source)
    yield from check_first_line(tree, "module", ast.get_docstring(tree))
    for node, qualified_name, owner in public_definitions(tree):
        text = ast.get_docstring(node)
        yield from check_first_line(node, qualified_name, text)
        omissions = check_class(node, text) if is_class(node) else check_function(node, text, owner)
        for omission in omissions:
            yield node.lineno, qualified_name, omission


def public_definitions(tree):
    """Yield the public functions and classes of a module, and the classes' public methods."""
    for node in tree.body:
        if not (is_class(node) or isinstance(node, FUNCTIONS)) or node.name.startswith("_"):
            continue
        yield node, node.name, None
        for method in node.body if is_class(node) else []:
            if isinstance(method, FUNCTIONS) and not method.name.startswith("_"):
                yield method, f"{node.name}.{method.name}", node


def check_first_line(node, name, text):
    line, first = getattr(node, "lineno", 1), (text or "").partition("\n")[0]
    if text is None:
        yield line, name, "no docstring"
    elif not first.endswith(".") or len(first) > MAX_FIRST_LINE:
        yield line, name, f"first line: at most {MAX_FIRST_LINE} characters and a full stop"


def check_function(node, text, owner):
    if has_decorator(node, "property", "cached_property"):
        return
    names = argument_names(node, is_method=owner is not None)
    sections = parse_sections(text)
    yield from check_names("Args", names, sections.get("Args"))
    if names and returns_a_value(node) and not sections.keys() & {"Returns", "Yields"}:
        yield "no Returns"
    if raises(node) and "Raises" not in sections:
        yield "no Raises"


def check_class(node, text):
    """Check a class docstring: it documents the constructor, or the fields of a record."""
    sections = parse_sections(text)
    methods = {method.name: method for method in node.body if isinstance(method, FUNCTIONS)}
    if "__init__" in methods:
        names = argument_names(methods["__init__"], is_method=True)
        yield from check_names("Args", names, sections.get("Args"))
    elif is_record(node):
        names = [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)]
        documented = sections.get("Attributes", sections.get("Args"))
        yield from check_names("Attributes", names, documented)
    constructors = [methods[name] for name in CONSTRUCTORS if name in methods]
    if any(map(raises, constructors)) and "Raises" not in sections:
        yield "no Raises"


def check_names(section, names, documented):
    """Compare the names of a section with the names in the code."""
    if documented is None:
        if names:
            yield f"no {section} ({', '.join(names)})"
        return
    if missing := [name for name in names if name not in documented]:
        yield f"{section} without {', '.join(missing)}"
    if unknown := [name for name in documented if name not in names]:
        yield f"{section} with unknown {', '.join(unknown)}"


def parse_sections(text):
    """Return the names that each section of a Google style docstring documents."""
    sections, names = {}, []
    for line in inspect.cleandoc(text or "").splitlines():
        if match := SECTION.fullmatch(line):
            names = sections.setdefault(match[1], [])
        elif match := ENTRY.match(line):
            names.append(match[1])
        elif line and not line.startswith(" "):
            names = []
    return sections


def argument_names(node, is_method):
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if is_method and not has_decorator(node, "staticmethod"):
        names = names[1:]
    names += [argument.arg for argument in arguments.kwonlyargs]
    variadic = [arguments.vararg, arguments.kwarg]
    return names + [argument.arg for argument in variadic if argument is not None]


def returns_a_value(node):
    return node.returns is not None and ast.unparse(node.returns) not in ("None", "Iterator[None]")


def raises(node):
    """Return whether a function contains a raise or calls a check."""
    for child in ast.walk(node):
        if isinstance(child, ast.Raise):
            return True
        if isinstance(child, ast.Call):
            name = ast.unparse(child.func).rpartition(".")[2]
            if CHECK.match(name):
                return True
    return False


def is_class(node):
    return isinstance(node, ast.ClassDef)


def is_record(node):
    bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return has_decorator(node, "dataclass") or any(base in RECORD_BASES for base in bases)


def has_decorator(node, *names):
    decorators = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
    return any(decorator.rpartition(".")[2] in names for decorator in decorators)


def test_the_public_api_is_documented_completely():
    omissions = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {omission}"
        for path in PATHS
        for line, name, omission in find_omissions(path.read_text())
    ]
    if omissions:
        pytest.fail("\n".join([f"{len(omissions)} omissions:", *omissions]), pytrace=False)


COMPLETE = '''"""A module."""

def clip(x: float, *, high: float, **options: int) -> float:
    """Limit a value.

    Args:
        x: the value.
        high: the limit,
            in pixels.
        **options: not used.

    Returns:
        At most ``high``.

    Raises:
        ValueError: the limit is below 0.
    """
    check_at_least("high", high, 0)
    return min(x, high)


class Clip(nn.Module):
    """Limit values.

    Args:
        high: the limit.

    Raises:
        ValueError: the limit is below 0.
    """

    def __init__(self, high: float) -> None:
        self._check(high)

    @property
    def limit(self) -> float:
        """The limit."""

    def forward(self, x: Tensor) -> Tensor:
        """Limit a value.

        Args:
            x: the value.

        Returns:
            At most the limit.
        """


class Limits(NamedTuple):
    """Two limits.

    Attributes:
        low: the lower limit.
    """

    low: float
'''


def test_a_complete_module_has_no_omissions():
    assert list(find_omissions(COMPLETE)) == []


@pytest.mark.parametrize(
    ("text", "replacement", "expected"),
    [
        ("A module.", "A module", (1, "module", "first line: at most 100 characters and a full ")),
        ("        x: the value.\n        high", "        high", (3, "clip", "Args without x")),
        ("        **options: not used.\n", "", (3, "clip", "Args without options")),
        ("options: not used", "others: not used", (3, "clip", "Args with unknown others")),
        ("    Returns:\n        At most ``high``.\n", "", (3, "clip", "no Returns")),
        ("    Args:\n        high: the limit.\n\n", "", (22, "Clip", "no Args (high)")),
        ("        self._check(high)", "        raise ValueError", None),
        ("    Raises:\n        ValueError: the limit is below 0.\n", "", (3, "clip", "no Raises")),
        ('        """The limit."""', "        return 1", (36, "Clip.limit", "no docstring")),
        ("            x: the value.\n", "", (39, "Clip.forward", "Args without x")),
        (
            "    low: float",
            "    low: float\n    high: float",
            (50, "Limits", "Attributes without h"),
        ),
    ],
)
def test_omissions_are_reported_with_their_lines(text, replacement, expected):
    assert text in COMPLETE
    omissions = list(find_omissions(COMPLETE.replace(text, replacement)))
    if expected is None:
        assert omissions == []
    else:
        assert any(
            line == expected[0] and name == expected[1] and omission.startswith(expected[2])
            for line, name, omission in omissions
        ), omissions
