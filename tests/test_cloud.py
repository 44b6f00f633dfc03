"""The scripts of cloud/: what they ask gcloud for, that they are sound shell, that what they name exists."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ("cloud/run_tpu.sh", "cloud/ten_splits.sh", "cloud/slurm.sbatch", ".ci/run")

# Notes every call; the slice exists from `create` on, is active the second time one asks, and gone after `delete`.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  *"queued-resources describe"*)
    [ -e "$CALLS.made" ] || exit 1
    if [ -e "$CALLS.asked" ]; then echo ACTIVE; else touch "$CALLS.asked"; echo PROVISIONING; fi ;;
  *"queued-resources create"*) touch "$CALLS.made" ;;
  *"queued-resources delete"*) rm -f "$CALLS.made" "$CALLS.asked" ;;
  *"tpu-vm ssh"*--command=*)
    asked="$*"
    [ ! -d "$HOSTS_HOME" ] || { cd "$HOSTS_HOME" && HOME="$HOSTS_HOME" bash -c "${asked#*--command=}"; } ;;
  *"storage ls"*) [ "$(grep -c 'storage ls' "$CALLS")" -ge 3 ] ;;
esac
"""

RUN_TPU = """#!/bin/sh
echo "$TPU $ACCELERATOR $WORKDIR: $*" >> "$CALLS"
echo trained
[ "$TPU" != jiqa-4 ]
"""


@pytest.fixture
def run_tpu(tmp_path):
  """function (action, flags ...) -> the calls that the script made of gcloud."""
  for name, text in {"gcloud": GCLOUD, "sleep": "#!/bin/sh\n"}.items():
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)
  calls = tmp_path / "calls"
  environment = os.environ | {
    "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "HOSTS_HOME": str(tmp_path / "home"),
    "PROJECT": "p", "ZONE": "z", "ACCELERATOR": "v5litepod-16", "WORKDIR": "gs://b/my run", "DATA": "gs://b/data",
  }  # fmt: skip

  def run(*arguments, expected=0):
    calls.write_text("")
    command = ["bash", str(ROOT / "cloud/run_tpu.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expected, done.stderr
    return calls.read_text()

  return run


def test_a_slice_is_made_used_and_deleted(run_tpu):
  made = run_tpu("create")
  assert "queued-resources create jiqa --node-id=jiqa --project=p --zone=z" in made
  assert "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite" in made and "--spot" not in made
  assert made.count("describe") == 3  # absent, not yet, there
  installed = run_tpu("install")
  assert "scp" in installed and "jiqa.tar.gz --project=p --zone=z --worker=all" in installed
  assert "storage rsync --recursive 'gs://b/data' data" in installed
  started = run_tpu("train", "--config=configs/lml.py:demo", "--config.seed=1")
  assert "--worker=all" in started and "launch.py --distributed" in started
  assert r"--workdir=gs://b/my\ run --config=configs/lml.py:demo --config.seed=1" in started
  assert "--worker=0 --command=tail" in run_tpu("logs")
  assert "kill -TERM" in run_tpu("stop")
  assert "queued-resources delete jiqa" in run_tpu("delete")


def test_a_spot_slice_is_kept_until_there_are_results(run_tpu):
  calls = run_tpu("keep", "--config=configs/reiqa.py")
  assert calls.count("queued-resources create") == 1 and "--spot" in calls
  assert calls.index("launch.py --distributed") < calls.index("queued-resources delete")
  assert "gs://b/my run/results.json" in calls


def test_a_run_is_started_and_stopped_on_the_hosts(run_tpu, tmp_path):
  python = tmp_path / "home/jiqa/.venv/bin/python"
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/sh\necho "$@"\nexec /bin/sleep 60\n')
  python.chmod(0o755)
  run_tpu("train", "--config=configs/lml.py:demo")
  process = int((tmp_path / "home/jiqa/pid").read_text())
  os.kill(process, 0)
  run_tpu("stop")
  with pytest.raises(ProcessLookupError):
    os.kill(process, 0)
  told = (tmp_path / "home/jiqa.log").read_text()
  assert told.startswith("launch.py --distributed --workdir=gs://b/my run --config=configs/lml.py:demo")


def test_mistakes_of_the_caller_are_told(run_tpu):
  run_tpu(expected=1)
  run_tpu("destroy", expected=2)


def test_ten_splits_are_ten_jobs(tmp_path):
  for name, text in {"sbatch": '#!/bin/sh\necho "$*" >> "$CALLS"\n', "run_tpu.sh": RUN_TPU}.items():
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)
  shutil.copy(ROOT / "cloud/ten_splits.sh", tmp_path)
  environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}

  def run(*arguments):
    (tmp_path / "calls").write_text("")
    command = ["bash", str(tmp_path / "ten_splits.sh"), *arguments, "--config=configs/liqe.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    return done, sorted((tmp_path / "calls").read_text().splitlines())

  done, calls = run("slurm", "/shared/my run")
  assert done.returncode == 0 and len(calls) == 10
  assert all("--gpus-per-node=1" in call and "--config=configs/liqe.py" in call for call in calls)
  assert "--config.split=7 --workdir=/shared/my run_7" in calls[7]
  done, calls = run("tpu", "gs://b/liqe")
  assert calls[3] == "jiqa-3 v5litepod-1 gs://b/liqe_3: keep --config=configs/liqe.py --config.split=3"
  # The fourth fails, and the others go on.
  assert len(calls) == 10 and done.returncode == 1 and done.stderr.count("failed") == 1
  assert "split 4 failed, see split_4.log" in done.stderr and (tmp_path / "split_9.log").read_text() == "trained\n"
  assert run("gpu", "runs/liqe")[0].returncode == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_sound_shell(script):
  subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
  found = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  if not found:
    pytest.skip("shellcheck is not installed")
  subprocess.run([found, str(ROOT / script)], check=True)


def test_what_the_files_name_exists():
  flags = {"config", "workdir", *re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / "launch.py").read_text())}
  for path in (ROOT / "cloud").iterdir():
    text = path.read_text()
    for line in re.findall(r"launch\.py (.*)|run_tpu\.sh train (.*)", text):
      for flag in re.findall(r"--(\w+)", " ".join(line)):
        assert flag in flags, f"{path}: launch.py has no --{flag}"
    for name in re.findall(r"(?:configs|cloud)/[\w.]+\w", text):
      assert (ROOT / name).exists(), f"{path}: {name}"
  for name in re.findall(r"^COPY (.*) \S+$", (ROOT / "cloud/Dockerfile").read_text(), re.M):
    assert all((ROOT / part).exists() for part in name.split())


def test_the_jobset_is_one_and_asks_for_whole_hosts():
  (job,) = yaml.safe_load_all((ROOT / "cloud/gke_jobset.yaml").read_text())
  spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
  pod = spec["template"]["spec"]
  (container,) = pod["containers"]
  assert job["kind"] == "JobSet" and spec["parallelism"] == spec["completions"] == 4
  assert container["resources"]["limits"]["google.com/tpu"] * spec["completions"] == 2 * 2 * 4
  assert container["args"][0] == "--distributed" and pod["restartPolicy"] == "Never"
  volumes = {volume["name"] for volume in pod["volumes"]}
  assert {m["name"] for c in [container, *pod["initContainers"]] for m in c["volumeMounts"]} <= volumes
