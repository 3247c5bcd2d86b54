"""The recipes in launch/ are written well, and say what the program understands; no cluster is here to run them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from tunix_grpo.config import Config, load

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [ROOT / "launch" / "slurm.sbatch", ROOT / "launch" / "tpu.sh"]
JOBSET = ROOT / "launch" / "jobset.yaml"


def composed(words: list[str]) -> Config:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(hydra.compose("config", ["output_dir=run", *words]))


def words_of(text: str) -> list[str]:
    """Returns the settings that a command gives to run_training.py."""
    command = text.partition("run_training.py")[2]
    return re.findall(r"(?<=\s)[a-z_.]+=[^\s\"$]+", command)


def test_every_recipe_is_tested():
    assert sorted((ROOT / "launch").iterdir()) == sorted([*SCRIPTS, JOBSET])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_bash_and_give_settings_that_there_are(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    (line,) = [line for line in script.read_text().splitlines() if "run_training.py" in line and line[0] != "#"]
    composed(words_of(line))


def test_the_slurm_script_starts_one_process_a_node_and_saves_before_its_time_is_over():
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPTS[0].read_text(), re.MULTILINE))
    assert (asked["ntasks-per-node"], asked["signal"]) == ("1", "USR1@300")
    assert {"requeue", "nodes", "time", "gpus-per-node"} <= asked.keys()
    if shutil.which("sbatch"):
        done = subprocess.run(["sbatch", "--test-only", SCRIPTS[0]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_tpu_script_passes_its_words_on_whole(tmp_path):
    """Through a shell on this side and one on the other."""
    noted = tmp_path / "gcloud"
    noted.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    noted.chmod(0o755)
    words = ["reward=[format,correctness]", "notes.what=two words"]
    subprocess.run([SCRIPTS[1], "slice", "zone", "/a b", *words], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    *_, command = (tmp_path / "words").read_text().splitlines()
    change, _, train = command.removeprefix("--command=").partition(" && ")
    assert shlex.split(change) == ["cd", "/a b"]
    assert shlex.split(train) == [".venv/bin/python", "run_training.py", "device=tpu", *words]


def test_the_jobset_numbers_its_pods_as_the_program_does():
    (jobset,) = yaml.safe_load_all(JOBSET.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    command = container["command"][-1]
    config = composed([*words_of(command), "distributed.process_id=1"])
    assert spec["completionMode"] == "Indexed"
    assert config.distributed.num_processes == spec["parallelism"] == spec["completions"]
    assert command.endswith("distributed.process_id=$JOB_COMPLETION_INDEX")
    # The name of the first pod in the domain of the set.
    name = jobset["metadata"]["name"]
    assert config.distributed.coordinator == f"{name}-{job['name']}-0-0.{name}:9876"
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_line_for_submitit_asks_for_what_its_launcher_has(monkeypatch):
    (line,) = [
        line.strip()
        for line in (ROOT / "docs" / "clusters.md").read_text().splitlines()
        if "hydra/launcher=submitit_slurm" in line and line.startswith("    ")
    ]
    words = [word for word in shlex.split(line)[2:] if word != "--multirun"]
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as it was again, when the test is over
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
    launcher = cfg.hydra.launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (2, 1, 8)
