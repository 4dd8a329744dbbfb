"""The promises of the project as a whole: who imports whom, quick help, frozen options, documents."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import typer
from documented import shell_statements
from typer.testing import CliRunner

from dsmap.common.images import write_rgb

ROOT = Path(__file__).parents[1]
FOLDERS = {"dsmap": ROOT / "dsmap", "export": ROOT / "export", "runtime": ROOT / "runtime", "tools": ROOT / "tools"}
LEAVES = {"dsmap", "dsmap.errors", "dsmap.common"}  # every part may use these, and what is in dsmap.common
BUNDLE_FORMAT = {
    "dsmap.runtime.bundle.bundle",
    "dsmap.runtime.bundle.card",
    "dsmap.runtime.bundle.graphs",
    "dsmap.runtime.bundle.manifest",
    "dsmap.runtime.bundle.style_images",
    "dsmap.runtime.engines.build",
    "dsmap.runtime.engines.build_options",
    "dsmap.runtime.engines.lookup",
    "dsmap.runtime.engines.progress",
    "dsmap.runtime.engines.sidecars",
    "dsmap.runtime.engines.size_profile",
    "dsmap.runtime.engines.tensorrt_api",
    "dsmap.runtime.engines.trust",
    "dsmap.runtime.triton.interface",
}  # what export may use of the runtime
HEAVY = ("torch", "onnxruntime", "onnx", "cv2", "av", "numpy", "pydantic", "yaml")


MODULES = {
    ".".join((*(() if name == "dsmap" else ("dsmap",)), *path.relative_to(ROOT).with_suffix("").parts)): path
    for name, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


def imports(path: Path) -> set[str]:
    """Names of what a file imports, anywhere in it; for the project's own the exact modules."""
    return imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_at_load(path: Path) -> set[str]:
    """The same, without what stands in functions or is for type checkers alone."""
    return imported(at_load(ast.parse(path.read_text(encoding="utf-8")).body))


def at_load(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_load(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from at_load(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from at_load(handler.body)


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return names


def room_of(module: str) -> str:
    """The top folder that a module of the project lies in."""
    if module == "dsmap.__main__":  # a command, which Python wants there
        return "tools"
    return next((part for part in ("export", "runtime", "tools") if module.startswith(f"dsmap.{part}")), "dsmap")


def crossing(part: str, allowed: set[str]) -> list[str]:
    """Imports of `part` that go to a module of another part, other than those in `allowed` and the leaves."""
    found = []
    for module, path in sorted(MODULES.items()):
        if room_of(module) != part:
            continue
        for name in imports(path):
            if not name.startswith("dsmap") or name in LEAVES | allowed or name.startswith("dsmap.common."):
                continue
            assert name in MODULES, f"{path} imports {name}, which is no module"
            if room_of(name) != part:
                found.append(f"{path.relative_to(ROOT)} imports {name}")
    return found


def test_the_network_knows_no_other_part():
    assert crossing("dsmap", set()) == []


def test_the_runtime_knows_only_itself_and_the_leaves():
    assert crossing("runtime", set()) == []


def test_export_knows_the_network_and_the_bundle_format():
    network = {name for name in MODULES if re.match(r"dsmap\.(config|model|training)\b", name)}
    assert crossing("export", network | BUNDLE_FORMAT) == []


def test_common_knows_nothing_but_itself():
    for module, path in MODULES.items():
        if module.startswith("dsmap.common"):
            others = {
                name for name in imports(path) if name.startswith("dsmap") and not name.startswith("dsmap.common")
            }
            assert others <= {"dsmap", "dsmap.errors"}, f"{module} imports {others}"


def test_nothing_imports_in_a_circle():
    graph = {module: imports_at_load(path) & set(MODULES) - {module} for module, path in MODULES.items()}
    assert "dsmap.errors" in graph["dsmap.tools.shared.cli"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_finding_a_model_and_the_hub_import_in_one_direction():
    """Also where an import waits in a function: what finds models knows the Hub's cache, which knows no finder."""
    finder, seen, left = "dsmap.runtime.bundle.bundled", set(), {"dsmap.runtime.hub.models"}
    while left:
        seen |= left
        left = {name for module in left for name in imports(MODULES[module]) if name in MODULES} - seen
    assert "dsmap.runtime.hub.models" in imports(MODULES[finder])
    assert finder not in seen


def test_class_names_are_unique():
    """Within functions too: who reads a name in a traceback or a search should find one class."""
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_names_of_test_files_are_unique():
    """pytest collects one of two."""
    places: dict[str, list[Path]] = {}
    for path in Path(__file__).parent.rglob("*.py"):
        if path.name != "conftest.py":
            places.setdefault(path.name, []).append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_the_runtime_names_torch_in_the_backend_of_that_name_alone():
    own = FOLDERS["runtime"] / "backends" / "torch"
    naming = {
        path
        for path in FOLDERS["runtime"].rglob("*.py")
        if "torch" in {name.partition(".")[0] for name in imports(path)}
    }
    assert naming
    assert {path for path in naming if path.parent != own} == set()
    # Only what `--backend torch` imports leads there, and not before it is asked for.
    leading = {
        module
        for module, path in MODULES.items()
        if path.parent != own and any(name.startswith("dsmap.runtime.backends.torch") for name in imports_at_load(path))
    }
    assert leading == set()


def test_other_backends_import_no_torch(tiny_bundle, tmp_path):
    """Seconds, and hundreds of megabytes."""
    code = (
        "import sys\nfrom dsmap.runtime import Translator\nimport numpy as np\n"
        "from dsmap.runtime.backends.registry import BACKENDS\nassert 'torch' in BACKENDS\n"
        f"Translator.load({str(tiny_bundle)!r}, domain='winter', threads=1)(np.zeros((16, 16, 3), np.uint8))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_cv2_is_imported_before_av():
    """With av first, cv2.imshow hangs for ever on Linux."""
    for path in [p for folder in FOLDERS.values() for p in folder.rglob("*.py")]:
        first = re.search(r"^\s*import (av|cv2)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        uses_av = re.search(r"^\s*(import av\b|from av\b)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert not uses_av or (first and first[1] == "cv2"), f"{path} imports av without cv2 before it"


def test_commands_print_in_one_place():
    """Names from anybody are made printable there; a print elsewhere would let them through."""
    prints = re.compile(r"typer\.s?echo|\bprint\(|sys\.std(out|err)\.write|print_exc|from rich|import rich")
    allowed = {
        "shared/terminal.py": {"typer.secho"},
        "shared/progress.py": {"from rich", "print("},
        "shared/live_table.py": {"from rich"},
    }
    allowed["doctor/page.py"] = {"sys.stdout.write", "sys.stderr.write"}  # where typer cannot be loaded
    for path in FOLDERS["tools"].rglob("*.py"):
        found = {match[0] for match in prints.finditer(path.read_text(encoding="utf-8"))} - allowed.get(
            path.relative_to(FOLDERS["tools"]).as_posix(), set()
        )
        assert not found, f"{path} prints by itself: {found}"


def commands() -> dict[str, str]:
    """dsmap-* commands and their entry points."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return {name: entry for name, entry in scripts.items() if name != "dsmap"}  # whose verbs they are


def test_help_is_there_without_docstrings(tmp_path):
    """python -OO strips them, and typer takes a command's help from there unless it is given."""
    modules = [entry.partition(":")[0] for entry in commands().values()]
    modules += [f"dsmap.tools.{name}" for name in ("golden", "gpu_check")]
    code = f"""
import importlib, sys
from typer.main import get_command

def show(command, name):
    if not command.help:
        sys.exit(f"no help: {{name}}")
    for inner in getattr(command, "commands", {{}}).values():
        show(inner, f"{{name}} {{inner.name}}")
    print(name)

for module in {modules!r}:
    show(get_command(importlib.import_module(module).app), module)
"""
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-300:]
    assert len(done.stdout.split()) >= len(modules)


MODULES_WITH_HELP = ["train", "export", "video", "live", "serve", "web", "bench", "eval", "doctor", "golden", "models"]


@pytest.mark.parametrize("module", MODULES_WITH_HELP)
def test_help_imports_nothing_heavy(module, tmp_path):
    code = (
        f"import sys; sys.argv = ['x', '--help']\n"
        f"from dsmap.tools.{module} import main\n"
        f"try: main()\nexcept SystemExit as stop: assert stop.code == 0\n"
        f"print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


OPTIONS = {
    "train": "--allow-new-data --compile --config --data --debug --device --domain --domains --dry-run --features "
    "--help --method --output --precision --preset --resume --set --start-from --steps --version",
    "export": "--best --card --contrast --data --dataset --debug --default-style --domain --domains --engine --force "
    "--fp16 --gpu-arch --help --int8 --licence --live --margin --max-batch --name --named-style --official "
    "--opt-level --output --overwrite --refiner --report --sample --sharpen --sizes --timing-cache --triton "
    "--triton-parts --version --without",
    "polish": "--batch-size --contrast --data --debug --default-style --device --domain --features --help --lr "
    "--matching --output --seed --steps --to --version --zoom",
    "distill": "--batch-size --data --debug --device --domain --features --help --lr --output --perceptual --preset "
    "--refiner --seed --set --steps --version",
    "importer": "--card --data --dataset --debug --domains --force --fp16 --help --int8 --licence --name --output "
    "--overwrite --size --version",
    "doctor": "--debug --help --model --overwrite --report --version",
    "models list": "--debug --help --overwrite --report",
    "models show": "--debug --help --overwrite --report",
    "models pull": "--debug --help --limit",
    "models push": "--debug --dry-run --help --private",
    "models verify": "--debug --help",
    "models remove": "--debug --help",
    "eval images": "--content --debug --features --features-run-code --help --lpips --overwrite --page --pairs "
    "--reference --report --seed --source --version",
    "eval model": "--backend --contents --data --debug --domain --domains --features --features-run-code --height "
    "--help --lpips --overwrite --page --pairs --precision --preset --repeats --report --results --seed --styles "
    "--threads --to --trust-engines --version",
    "live": "--backend --camera --camera-password-env --cuda-binding --debug --domain --fps --frames --height --help "
    "--hwaccel --list-cameras --loop --mirror --model --no-window --overwrite --patience --precision --record --refine "
    "--remote --report --seconds --seed --size --style --style-spread --target-fps --trust-engines "
    "--verbose --version --virtual-camera",
    "serve": "--allow-host --backend --cuda-binding --debug --help --host --keep-minutes --max-disk --max-jobs "
    "--max-megapixels --max-minutes --max-upload --model --port --precision --sessions --token --token-file "
    "--trust-engines --version",
    "video": "--audio --backend --codec --crf --cuda-binding --debug --deinterlace --domain --end --frames --height "
    "--help --hwaccel --model --no-upscale --output --overwrite --precision --preset --preview --program --programme "
    "--rate --refine --remote --report --resume --seed --side-by-side --stabilize --start --streams --strength "
    "--strip-metadata --style --style-cycle --style-from --style-period --style-spread --style-to --tile --verbose "
    "--version --password-env --trust-engines --ray --segment --cpus-per-worker --gpus-per-worker",
    "web": "--debug --domain --help --output --overwrite --port --runtime --serve --version",
}


BENCHES = ("train", "model", "video", "live")


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_options_are_frozen(command):
    """People's scripts use these names: adding one is fine (add it here), renaming or dropping one is not."""
    module, _, name = command.partition(" ")
    found = typer.main.get_command(__import__(f"dsmap.tools.{module}", fromlist=["app"]).app)
    params = found.commands[name].params if name else found.params
    options = {name for p in params for name in p.opts if name.startswith("--")} | {"--help"}
    if not name:
        assert options >= {"--install-completion", "--show-completion"}
    assert options - {"--install-completion", "--show-completion"} == set(OPTIONS[command].split())


@pytest.mark.parametrize("command", [*OPTIONS, "eval", "eval video", "bench", *(f"bench {name}" for name in BENCHES)])
def test_help_fits_two_pages(command):
    """Of 80 columns and 45 lines each, with examples at the end."""
    module, _, name = command.partition(" ")
    app = __import__(f"dsmap.tools.{module}", fromlist=["app"]).app
    screen = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}).stdout
    assert len(screen.splitlines()) <= 90
    assert max(map(len, screen.splitlines())) <= 80
    assert "\nExample" in screen
    assert not re.search(r"\[[^]\n]*-\n", screen)  # a default that is broken at a hyphen


def test_every_command_has_a_module_with_main():
    for name, entry in commands().items():
        module, _, function = entry.partition(":")
        assert name == "dsmap-" + {"importer": "import"}.get(module.rpartition(".")[2], module.rpartition(".")[2])
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_the_readme_names_the_two_commands_first():
    first, second = shell_statements("README.md")[:2]
    assert (first.text.partition("  #")[0], second.text.partition("  #")[0]) == ("make demo ", "make test ")
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_documents_name_no_missing_file():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_contributors_are_sent_to_files_that_exist():
    for document in ("CONTRIBUTING.md", "docs/architecture.md"):
        named = re.findall(r"`([\w/]+/|[\w/.]+\.(?:py|toml|txt|md))`", (ROOT / document).read_text(encoding="utf-8"))
        assert len(named) >= 5
        for path in named:
            assert (ROOT / path).exists(), f"{document} names {path}"


def test_versions_agree():
    version = re.escape(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    assert re.search(f'^__version__ = "{version}"$', (ROOT / "dsmap" / "__init__.py").read_text(), re.MULTILINE)
    assert re.search(f"^version: {version}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    ruff = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert ruff
    assert f"rev: v{ruff[1]} " in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_the_site_shows_every_document():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")
    )


def test_import_dsmap_is_light(tmp_path):
    code = (
        f"import sys, dsmap, dsmap.tools, dsmap.runtime, dsmap.export; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture
def holiday(tmp_path) -> Path:
    """A folder with the files that the examples of docs/api.md name."""
    import clips

    folder = tmp_path
    clips.make_clip(folder / "holiday.mp4")
    (folder / "photos").mkdir()
    for name in ("snowy.jpg", "photo.jpg", "photos/1.jpg", "photos/2.png"):
        write_rgb(folder / name, np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))
    return folder


def api_examples() -> list[str]:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if block.count("\n") > 1]


@pytest.mark.parametrize("number", range(4))
def test_api_examples_run(number, holiday):
    done = subprocess.run([sys.executable, "-c", api_examples()[number]], capture_output=True, text=True, cwd=holiday)
    assert done.returncode == 0, done.stderr
    results = ["photo-winter.png", "results/holiday-winter.mp4", "holiday-winter.mkv", "inverted.mp4"]
    assert (holiday / results[number]).stat().st_size > 0


@pytest.mark.parametrize(
    ("module", "arguments", "package", "extra"),
    [
        ("train", ["--data", ".", "-o", "r"], "PyYAML", "train"),
        ("polish", ["summer-winter", "-o", "r", "--data", "."], "torch", "train"),
        ("export", [".", "-o", "b"], "torch", "export"),
        ("bench", ["train"], "PyYAML", "train"),
        ("bench", ["model"], "torch", "export"),
        ("eval", ["model", "summer-winter", "--data", ".", "--lpips", "alex"], "torch", "eval"),
    ],
)
def test_a_missing_extra_is_named(module, arguments, package, extra, tmp_path):
    """Without torch, the commands that need it say what to install."""
    for number, name in enumerate(("trainA", "trainB")):
        (tmp_path / name).mkdir()
        write_rgb(tmp_path / name / "a.png", np.full((64, 64, 3), number, np.uint8))
    code = (
        "import sys\nfor name in ('torch', 'yaml'): sys.modules[name] = None\n"
        f"sys.argv = ['x', *{arguments!r}]\nfrom dsmap.tools.{module} import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: {package} is not installed\npip install 'dsmap[{extra}]'\n"


def test_export_from_python_names_the_missing_extra(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom pathlib import Path\n"
        "from dsmap.errors import DsmapError\nfrom dsmap.export import ExportRequest, export_model\n"
        "try: export_model(ExportRequest(checkpoint=Path('run'), out=Path('bundle')), say=print)\n"
        "except DsmapError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "torch is not installed\npip install 'dsmap[export]'\n", done.stderr


def test_nothing_is_reported_to_anybody(tiny_bundle, tmp_path):
    """ONNX Runtime's telemetry would leave a device id and its letters in the user's home."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {name: str(tmp_path) for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    code = (
        "from dsmap.runtime import Translator\n"
        f"Translator.load({str(tiny_bundle)!r}, domain='winter', backend='cpu').close()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
