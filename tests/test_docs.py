"""The commands of README.md, CONTRIBUTING.md and docs/, run as a reader would, in a fresh copy of the tree.

A command counts if it stands on a line of its own, indented or fenced. `make docs-test` runs these tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.models import write_model
from helpers.tokenizers import write_tokenizer

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:echo .*\| *)?(?:(?:\S+/)?python|make|pip|bash|tunix-grpo) .*")
# What makes the small programs of the other tests quick to compile, and is not how users run theirs.
OF_THE_TESTS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")

# What cannot run here, and why: the first pattern found in a command counts.
NOT_HERE = {
    r"^make (test|test-all|lint|format|docs-test)\b": "is what checks the tree, this test included",
    r"\.ci/run": "is what checks the tree, this test included",
    r"record_golden": "writes the numbers that test_golden.py compares with; that test runs what it calls",
    r"report_pictures": "writes the pictures of the page anew, and wants Chromium",
    r"compiled_memory": "compiles for an H100, which wants jax's CUDA packages",
    r"timed_programs|device=cuda": "wants a GPU",
    r"^make (cuda|tpu|preflight)": "downloads jax for an accelerator",
    r"^make tensorboard": "serves until it is stopped",
    r"submitit_slurm": "wants a Slurm cluster",
    r"^pip install": "downloads packages",
    r"format=gguf": "llama.cpp has no name for the tokenizer of the bundled model",
    r"peer=trl|learn_trl|=TRL\b": "TRL is no dependency",
    r"sweep_defaults\.py SMOLLM2": "takes hours",
    r"reward\.(judge|http)\.": "asks a service that is not here",
    r"mirror=gs://": "wants a bucket of Google's",
    r"model=gemma3|run_training\.py$|recipe/gsm8k": "downloads Gemma 3",
}
TINY = "model=tiny task=arithmetic"
FEW = (
    "device=cpu training.num_batches=2 training.micro_batch_size=2 grpo.num_generations=2 "
    "generation.max_generation_steps=24 evaluation.num_questions=4"
)
QUICK = "task.num_questions=60 evaluation.before_training=false tracker.wandb=false"
FEW_DEMONSTRATIONS = (  # what is compiled is of the shapes that the run RUN has
    "device=cpu training.num_batches=1 training.micro_batch_size=8 generation.max_generation_steps=24 "
    f"evaluation.num_questions=4 model.lora_rank=4 {QUICK}"
)
# Words that make a command's work small, or take a small model in place of one that would be downloaded.
SMALLER = {
    r"sft\.py .*SMOLLM2": (
        f"{FEW_DEMONSTRATIONS} generation.max_prompt_length=1000 generation.max_generation_steps=200"
    ),
    r"sft\.py .*min_reward": f"{FEW_DEMONSTRATIONS} checkpoint_dir=twelfth",
    r"sft\.py ": f"{FEW_DEMONSTRATIONS} checkpoint_dir=thirteenth",
    r"run_training\.py .*model\.run=SFT": f"{FEW} {QUICK} model.lora_rank=4 checkpoint_dir=fourteenth",
    r"evaluate\.py run=SFT": "device=cpu evaluation.num_questions=4 task.num_questions=60",
    r"min_digits: 1": f"{FEW} generation.max_prompt_length=1000",
    r"task=reasoning_gym task\.dataset": f"{FEW} generation.max_prompt_length=1000 checkpoint_dir=fifth",
    r"run_training\.py model=hf": f"{FEW} generation.max_prompt_length=1000",
    r"run_training\.py \+reward\.functions": f"{TINY} {FEW} checkpoint_dir=sixth",
    r"reward\.limits": f"{TINY} {FEW} checkpoint_dir=seventh",
    r"reward\.custom\.messages": f"{TINY} {FEW} checkpoint_dir=eighth",
    r"run_training\.py reward\.custom": f"{TINY} {FEW} checkpoint_dir=another",
    r"task\.path=programs": f"model=tiny {FEW} checkpoint_dir=ninth",
    r"run_training\.py reward=\[correctness,overlong": f"{TINY} {FEW} checkpoint_dir=tenth",
    r"run_training\.py task\.name": f"model=tiny {FEW} checkpoint_dir=third",
    r"task=reasoning_gym": f"{FEW} task.num_questions=60 generation.max_prompt_length=200 checkpoint_dir=fifth",
    r"run_training\.py --config-dir": f"{TINY} {FEW} checkpoint_dir=fourth",
    r"hydra\.run\.dir=my-first-run": "training.num_batches=4 evaluation.num_questions=8",
    r"run_training\.py \+experiment=recipe": f"{FEW} generation.max_prompt_length=1000",
    r"run_training\.py \+experiment": "",
    r"hydra\.sweep\.dir=my-sweep": f"{FEW} checkpoint_dir=eleventh",
    r"hydra/launcher|hparams_search": "evaluation.num_questions=8 training.micro_batch_size=1 grpo.num_generations=2",
    r"scripts/evaluate\.py": "device=cpu evaluation.num_questions=8",
    r"timed=evaluation": "generation.max_generation_steps=8",
    r"verify_resume\.py": FEW,
    r"benchmark\.py .*sweep=": (
        "steps=1 warmup=0 grpo.num_generations=2 generation.max_generation_steps=8 points=[2,4]"
    ),
    r"benchmark\.py .*device=cpu": "steps=1 grpo.num_generations=2 generation.max_generation_steps=8",
}


def commands(page: Path) -> list[str]:
    """Returns the commands of a page, without their comments."""
    fenced, found = False, []
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            command = re.sub(r"\s+# .*", "", line.strip())
            found += [command] if COMMAND.match(command) else []
    return found


def shown_files(page: Path) -> dict[str, str]:
    """Returns the files that a page shows: fenced Python or YAML whose first line is `# its/path.py`."""
    return dict(
        re.findall(r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )


def first_match(patterns: dict[str, str], command: str) -> str | None:
    """Returns the value of the first pattern that is found in the command."""
    return next((value for pattern, value in patterns.items() if re.search(pattern, command)), None)


def here(command: str) -> str:
    """Returns the command with the words that make it small."""
    command = re.sub(r"^make ", "make -o .venv/.installed ", command)  # .venv is complete
    program, redirected = re.match(r"(.*?)(\s>\s.*)?$", command).groups()
    return f"{program} {first_match(SMALLER, command) or ''}{redirected or ''}"


def environment_of(place: Path) -> dict[str, str]:
    """Returns what a command in the copy of the tree finds: its own `.venv`, and a home of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_TESTS}
    own = {"HOME": f"{place.parent}/home", "PATH": f"{place}/.venv/bin:{os.environ['PATH']}"}
    return {**kept, **own, "PYTHONPATH": f"{place}/src"}


def run(command: str, place: Path) -> None:
    """Runs a command in the copy of the tree."""
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, cwd=place, env=environment_of(place), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A copy of the tree that has what the pages take as given: models, a run and its exports, files."""
    folder = tmp_path_factory.mktemp("docs") / "tree"
    left = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "outputs", "checkpoints")
    shutil.copytree(ROOT, folder, ignore=left, symlinks=True)  # the package's `conf` is a link
    (folder / ".venv").symlink_to(sys.prefix)
    for model in (folder / "DIR", folder / "SMOLLM2", folder.parent / "home/models/Qwen3-0.6B"):
        model.parent.mkdir(parents=True, exist_ok=True)
        write_model("qwen3", model, num_hidden_layers=2, vocab_size=300, max_position_embeddings=2048)
        write_tokenizer(model, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    (folder / "questions.txt").write_text("What is 12 + 30?\nWhat is 7 + 8?\n")
    (folder / "questions.jsonl").write_text(
        "".join(f'{{"question": "What is {n} + 1?", "answer": "{n + 1}"}}\n' for n in range(40))
    )
    (folder / "answers.jsonl").write_text(
        "".join(f'{{"question": "{n} + 1?", "completion": "{n + 1}", "answer": "{n + 1}"}}\n' for n in range(8))
    )
    (folder / "programs.jsonl").write_text(
        "".join(
            f'{{"text": "Write f(x), x + {n}.", "code": "f = {n}.__add__", "test_list": ["assert f(1) == {n + 1}"]}}\n'
            for n in range(40)
        )
    )
    for page in PAGES:
        for name, text in shown_files(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    run(
        f"python run_training.py {TINY} {FEW} model.lora_rank=4 hydra.run.dir=RUN checkpoint_dir=RUN/checkpoints",
        folder,
    )
    run("python scripts/export.py run=RUN to=MERGED format=merged", folder)
    run("python scripts/export.py run=RUN to=ADAPTER format=adapter", folder)
    for name in ("DAY/TIME", "2026-01-31/12-00-00"):
        (folder / "outputs/tunix-grpo" / name).parent.mkdir(parents=True)
        (folder / "outputs/tunix-grpo" / name).symlink_to(folder / "RUN")
    return folder


@pytest.mark.docs
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, place):
    """In the page's order; a run goes on from one of the same page alone."""
    for folder in ("checkpoints", *re.findall(r"checkpoint_dir=(\w+)", " ".join(SMALLER.values()))):
        shutil.rmtree(place / folder, ignore_errors=True)
    for command in commands(page):
        if first_match(NOT_HERE, command) is None:
            run(here(command), place)
            # Two pages may write the same folder.
            shutil.rmtree(place / "my-model", ignore_errors=True)


@pytest.mark.docs
@pytest.mark.timeout(600)
def test_the_notebook_runs(place, monkeypatch):
    """Every cell, in a kernel of its own; its last answer is shown."""
    import nbformat
    from nbclient import NotebookClient

    for name in OF_THE_TESTS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment_of(place).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "notebooks" / "first_run.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(place)}}).execute()
    shown = [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert "Training finished" in shown[1]
    assert "{0: 0." in shown[2] and "image/png" in shown[3] and "42" in shown[4]


def test_the_tables_name_commands_of_the_pages():
    found = [command for page in PAGES for command in commands(page)]
    for pattern in [*NOT_HERE, *SMALLER]:
        assert any(re.search(pattern, command) for command in found), pattern
    assert len([command for command in found if first_match(NOT_HERE, command) is None]) >= 15
