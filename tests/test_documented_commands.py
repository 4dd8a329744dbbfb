"""README.md and docs/: every command parses, and every page can be pasted from top to bottom."""

import itertools
import json
import re
import shutil
import subprocess
from functools import cache
from typing import Any

import documented
import documented_paste
import pytest
import typer
from documented import PAGES, shell_statements, simple_commands

from dsmap.tools.main import verb_module

LANGUAGES = {"sh", "python", "text", "json", "html", "js", "ini", "yaml", "mermaid"}
OTHER_PROGRAMS = {
    "pip", "make", "python3", "apt-get", ".", "export", "mkdir", "cp", "cd", "cat", "curl", "kill", "sudo", "torchrun",
    "tensorboard", "head", "read", "while", "until", "for", "do", "done", "fi", "sleep", "grep", "cut", "docker",
    "podman", "kubectl", "srun", "sbatch", "ray", "openssl", "ffmpeg",
    "tritonserver", "vapoursynth", "vspipe",
}  # fmt: skip
"""What else pages run. A new program is listed here, and either runs or has a reason in `documented_paste.NOT_RUN`."""
WITHOUT_VERB = {"--help", "--version", "--install-completion", "--show-completion"}
FOREIGN_OPTIONS = {
    "--shm-size", "--ipc", "--cpus", "--gpus", "--memory", "--network", "--publish", "--volume", "--build-arg",
    "--user", "--profile", "--nnodes", "--node-rank", "--nproc-per-node", "--master-addr", "--master-port",
    "--max-restarts", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--requeue", "--dependency",
    "--model-control-mode", "--norm",
}  # fmt: skip
"""Of other programs (docker, torchrun, Slurm, tritonserver, CycleGAN's trainer), in the text."""
EXTRAS = [
    (r"^(train|polish|distill|bench train)", "train"),
    (r"^(export|import|bench model(?! [a-z]))", "export"),
    (r"^eval", "eval"),
    (r"^serve", "serve"),
    (r"\bhf:", "hub"),
    (r"^live(?!.*--no-window)", "window"),
    (r"--virtual-camera", "virtual-camera"),
    (r"--lpips", "lpips"),
    (r"--features vgg16", "vgg"),
    (r"--engine rtx", "rtx"),
    (r"--engine tensorrt", "tensorrt"),
    (r"--backend torch", "torch"),
    (r"--backend openvino", "openvino"),
    (r"--remote", "triton"),
    (r"--ray", "ray"),
]
"""(what a command line says, the extra that its page must name)."""


@cache
def click_command(verb: str) -> Any:
    return typer.main.get_command(verb_module(verb).app)


def check_arguments(verb: str, arguments: list[str]) -> None:
    """Reads the arguments as the command itself does. Raises its error."""
    if verb in WITHOUT_VERB or not verb:
        return
    command = click_command(verb)
    if inner := getattr(command, "commands", None):
        command, arguments = inner[arguments[0]], arguments[1:]
    if set(arguments) & {"--help", "-h", "--version"}:
        return
    context = command.make_context(f"dsmap {verb}", list(arguments))
    if verb == "train":
        check_settings(context.params)


def check_settings(params: dict[str, Any]) -> None:
    """Reads the settings of a training. Raises InputError for one that does not exist."""
    from dsmap.config import load_train_config

    load_train_config(params.get("preset") or "paper", None, list(params.get("settings") or params.get("set_") or []))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page):
    text_of_all = [one.text for one in shell_statements(page)]
    for text, words in simple_commands(text_of_all):
        found = documented.dsmap_arguments(words)
        if found is None:
            assert words[0] in OTHER_PROGRAMS or words[0].startswith("python"), f"{page}: {text}"
            continue
        try:
            check_arguments(*found)
        except Exception as error:
            pytest.fail(f"{page}: {text}: {getattr(error, 'message', error)}")


def test_all_commands_are_documented():
    """And the check above sees them."""
    from dsmap.tools.main import VERBS

    found = {
        arguments[0]
        for page in PAGES
        for _, words in simple_commands([one.text for one in shell_statements(page)])
        if (arguments := documented.dsmap_arguments(words))
    }
    assert found >= set(VERBS)


def test_a_wrong_option_is_found():
    with pytest.raises(Exception, match="--hight"):
        check_arguments("video", ["a.mp4", "--domain", "winter", "--hight", "270"])
    with pytest.raises(Exception, match="los"):
        check_arguments("train", ["--data", "x", "-o", "y", "--set", "los.cycle=3"])


@pytest.mark.parametrize("page", PAGES)
def test_blocks_name_their_language(page):
    """So that every command stands in a block that is checked: ```sh."""
    assert {block.language for block in documented.blocks(page)} <= LANGUAGES, page
    hidden = re.findall(r"^ {4,}(?:dsmap|pip|python) .*$", documented.without_blocks(page), re.MULTILINE)
    assert not hidden, f"{page}: write it into a block ```sh: {hidden}"
    for block in documented.blocks(page):
        assert block.language == "sh" or not re.search(r"^(\$ )?dsmap[ -]\w", block.text, re.MULTILINE), block


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page):
    """`--option` and `dsmap VERB --option` between the blocks."""
    known = set(FOREIGN_OPTIONS)
    for verb in verbs():
        for command in [click_command(verb), *getattr(click_command(verb), "commands", {}).values()]:
            known |= {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for code in re.findall(r"`([^`\n]+)`", documented.without_blocks(page)):
        if re.match(r"(dsmap[ -]|--)", code):
            options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
            assert options <= known | WITHOUT_VERB, f"{page}: {code}"


def verbs() -> list[str]:
    from dsmap.tools.main import VERBS

    return [*VERBS, "gpu_check", "golden"]


def test_links_lead_to_sections_that_exist():
    for page in PAGES:
        folder = (documented.ROOT / page).parent
        for target, place in re.findall(r"\]\(([^):#]*)#([^)]+)\)", documented.without_blocks(page)):
            document = (folder / target).resolve() if target else documented.ROOT / page
            if document.suffix == ".md":
                assert place in sections(document.read_text(encoding="utf-8")), f"{page}: {target}#{place}"


def sections(text: str) -> set[str]:
    """The names of a document's sections in addresses."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_shell_blocks_are_valid(tmp_path):
    for page in PAGES:
        text = "".join(block.text for block in documented.blocks(page) if block.language == "sh")
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}: {done.stderr}"


def test_python_blocks_compile():
    for page in PAGES:
        for block in documented.blocks(page):
            if block.language == "python":
                compile(block.text, f"{page}:{block.line}", "exec")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_the_packages_that_its_commands_need(page):
    if page in documented_paste.NOT_PASTED:
        return
    named = set(re.findall(r"[\w-]+", " ".join(re.findall(r"dsmap\[([\w,-]+)\]", documented.page_text(page)))))
    for text, words in simple_commands([one.text for one in shell_statements(page)]):
        if found := documented.dsmap_arguments(words):
            line = " ".join([found[0], *found[1]])
            needed = {extra for pattern, extra in EXTRAS if re.search(pattern, line)}
            assert needed <= named | {"cpu"}, f"{page}: {text}: name {needed - named} on the page"


OUTPUTS = {"-o", "--output", "--report", "--preview", "--record", "--page"}
FIRST_PAGES = ("README.md", "docs/get-started.md", "docs/training.md")
"""What a new user pastes, one after the other, in one folder."""


def results(verb: str, arguments: list[str]) -> set[str]:
    """What a command writes, by its options; a video without any is named after its input and domain."""
    given = dict(itertools.pairwise(arguments))
    if given.keys() & {"--resume", "--overwrite"}:
        return set()
    found = {value for option, value in given.items() if option in OUTPUTS}
    if verb == "video" and not given.keys() & {"-o", "--output", "--preview"}:
        found.add(f"{arguments[0]} -> {given['--domain']}")
    return found


def test_no_two_commands_of_the_first_pages_write_the_same():
    written: dict[str, str] = {}
    for page in FIRST_PAGES:
        for text, words in simple_commands([one.text for one in shell_statements(page)]):
            for result in results(*(documented.dsmap_arguments(words) or ("", []))):
                assert result not in written, f"{page}: {text}: {written[result]} writes {result} too"
                written[result] = f"{page}: {text}"
    assert len(written) > 20


@pytest.fixture
def folder(tmp_path, made_once):
    """A folder with the files that pages name."""
    inputs = made_once("documented-inputs", documented_paste.make_inputs)
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_readme_can_be_pasted(folder):
    """What takes no training; `make test-slow` pastes all of all pages."""
    documented_paste.paste("README.md", folder, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in documented_paste.NOT_PASTED])
def test_every_page_can_be_pasted(page, folder, request):
    for name in documented_paste.BEGINS_WITH.get(page, ()):
        (folder / name).parent.mkdir(exist_ok=True)
        from_ = request.getfixturevalue("checkpoint" if name.startswith("runs/") else "tiny_bundle")
        shutil.copytree(from_, folder / name)
    documented_paste.paste(page, folder)


def test_the_card_in_the_bundled_model_is_the_documented_one():
    """Up to pictures and links, which a bundle has none of."""
    bundle = documented.ROOT / "runtime" / "models" / "summer-winter" / "bundle.json"
    card = json.loads(bundle.read_text(encoding="utf-8"))["card"]
    rows = re.findall(r"^\|.*\|$", documented.page_text("docs/summer-winter.md"), re.MULTILINE)
    assert len(rows) > 10
    assert [row for row in rows if row not in card and "](" not in row] == []


def test_the_checks_of_the_doctor_are_the_documented_ones():
    from dsmap.runtime.doctor.checkup import CHECKS

    text, titles = documented.page_text("docs/doctor.md"), [check.title for check in CHECKS]
    shown = re.findall(r"^\[ ?(\d+)/(\d+)\] (.+?) \.\.", text, re.MULTILINE)
    assert shown
    assert all((titles[int(number) - 1], len(titles)) == (title, int(count)) for number, count, title in shown)
    table = text[text.index("| check |") :]
    assert set(re.findall(r"^\| ([\w ]+?) \|", table, re.MULTILINE)) - {"check"} >= set(titles) - set(titles[:2])
