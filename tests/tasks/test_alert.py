"""What somebody is told when a run fails or is refused: the message as it arrives at a webhook."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.types.error import FlyteError
from webhook import Webhook

from clippo_core.config import EvaluateConfig, presets
from clippo_core.errors import EvaluationError
from clippo_core.run.records import EvalResult, Verdict
from tasks.alert import alert, alert_promoted, refused
from tasks.evaluate import require_all

SUNDAY = datetime.datetime(2026, 11, 22, 2, tzinfo=datetime.UTC)
# As flytekit writes it in a pod: the traceback, then what was said.
IN_VALIDATION = """Trace:

    Traceback (most recent call last):
      File "/opt/venv/lib/python3.12/site-packages/flytekit/core/base_task.py", line 754, in x
      File "/root/tasks/validate.py", line 23, in validate
        report = validate_pairs(plan)
      File "/root/clippo_core/data/validate/expectations.py", line 66, in validate
        raise DataError(message)
    clippo_core.errors.DataError: 40 of 100 pairs are unusable.
    They are listed below.

Message:

    DataError: 40 of 100 pairs are unusable.
    They are listed below."""
IN_A_RANK = """Trace:

    Traceback (most recent call last):
      ...
Message:

    FlyteRecoverableException: USER:Recoverable: error=
============================================================
pretrain FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 28)
  traceback : Traceback (most recent call last):
    File "/root/tasks/pretrain.py", line 52, in pretrain
      checkpoint = train(plan, manifest, previous=previous, watch=Watch)
  clippo_core.errors.TrainingError: The loss is not finite at step 7.
============================================================"""


@pytest.fixture
def webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Webhook:
    """A real HTTP server, and its address in the mounted secret."""
    with Webhook() as server:
        (tmp_path / "clippo").mkdir()
        (tmp_path / "clippo" / "webhook").write_text(server.address)
        monkeypatch.setenv("FLYTE_SECRETS_DEFAULT_DIR", str(tmp_path))
        monkeypatch.setenv("FLYTE_PLATFORM_CONSOLE_ENDPOINT", "https://flyte.example.org")
        yield server


def failed(message: str) -> FlyteError:
    """The error as Flyte hands it to a failure handler, which it names as the failed node."""
    return FlyteError(message=message, failed_node_id="fn0")


def test_a_failure_arrives_with_run_kickoff_stage_reason_and_link(webhook: Webhook) -> None:
    alert(config=presets.demo(), kickoff_time=SUNDAY, err=failed(IN_VALIDATION))
    assert webhook.texts == [
        "run demo of 2026-11-22 02:00 failed in validate: DataError: 40 of 100 pairs are"
        " unusable.\nexecution local/local/local, "
        "https://flyte.example.org/console/projects/local/domains/local/executions/local"
    ]


def test_a_rank_and_a_pod_that_died_are_named(webhook: Webhook) -> None:
    again = "[6/6] currentAttempt done. Last Error: USER::"
    alert(config=presets.demo(), kickoff_time=SUNDAY, err=failed(f"{again}{IN_A_RANK}"))
    pod = "[local-n4-0-n2-0] terminated with exit code (137). Reason [OOMKilled]. Message: "
    alert(config=presets.demo(), kickoff_time=SUNDAY, err=failed(f"{again}\r\n{pod}\n."))
    rank, died = (text.splitlines()[0] for text in webhook.texts)
    assert rank.endswith(
        "failed in pretrain: clippo_core.errors.TrainingError: The loss is not finite at step 7."
    )
    assert died.endswith(f"failed in n4-0-n2: {pod.strip()}")


@pytest.mark.parametrize(
    ("workflow", "node", "stage"),
    [
        ("workflows.pipeline.pretrain_and_evaluate", "n2", "judge"),
        ("workflows.pipeline.pretrain_and_evaluate", "n8-0-n0-n0", "imagenet"),
        ("workflows.pipeline.demo", "n1-0-n8-0-n5", "gather"),
        ("workflows.pipeline.demo", "n7", "n7"),
        ("gone.with_a_version", "n2", "n2"),
    ],
)
def test_the_task_of_a_pod_that_died_is_named(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, workflow: str, node: str, stage: str
) -> None:
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_WORKFLOW", workflow)
    pod = f"[local-{node}-2] terminated with exit code (137). Reason [OOMKilled]."
    alert(config=presets.demo(), kickoff_time=SUNDAY, err=failed(pod))
    assert f" failed in {stage}: {pod}" in webhook.texts[0]


def test_without_a_schedule_or_an_error_it_still_tells(webhook: Webhook) -> None:
    never = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    alert(config=presets.demo(), kickoff_time=never)
    assert webhook.texts[0].startswith("run demo failed\nexecution")


def test_the_nightly_evaluation_tells_too(webhook: Webhook) -> None:
    result = EvalResult.failed("glue", "", "no such file")
    with pytest.raises(EvaluationError, match=r"glue \(no such file\)"):
        require_all.task_function(results=[result], promoted="nowhere.json")
    skipped = [EvalResult.skipped("glue", "not asked for")]
    assert require_all(results=skipped, promoted="nowhere.json")
    alert_promoted(
        promoted="s3://clippo/promoted.json",
        evaluate=EvaluateConfig(),
        root="runs",
        kickoff_time=SUNDAY,
        err=failed("Trace:\n\n    ...\nMessage:\n\n    EvaluationError: no numbers: glue."),
    )
    assert webhook.texts[0].startswith(
        "evaluation of s3://clippo/promoted.json of 2026-11-22 02:00 failed: EvaluationError:"
    )


def test_a_refused_model_is_told_and_a_promoted_one_is_not(webhook: Webhook) -> None:
    for promoted in (True, False):
        verdict = Verdict(promoted, "Not promoted: glue fell.", "runs/x", "")
        refused(config=presets.demo(), kickoff_time=SUNDAY, verdict=verdict)
    assert len(webhook.texts) == 1
    assert webhook.texts[0].startswith(
        "run demo of 2026-11-22 02:00 finished. Not promoted: glue fell."
    )


def test_a_webhook_that_does_not_answer_is_tried_again(webhook: Webhook) -> None:
    webhook.status = 503
    with pytest.raises(FlyteRecoverableException, match="clippo/webhook") as raised:
        alert(config=presets.demo(), kickoff_time=SUNDAY)
    assert webhook.address not in str(raised.value)


def test_without_a_secret_the_log_says_that_nobody_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FLYTE_SECRETS_DEFAULT_DIR", str(tmp_path))
    alert(config=presets.demo(), kickoff_time=SUNDAY, err=failed(IN_VALIDATION))
    assert "run demo of 2026-11-22 02:00 failed in validate" in caplog.text
    # On this machine, who started the run reads the log: no word of webhooks and executions.
    assert "nobody else was told" not in caplog.text and "execution local" not in caplog.text
    monkeypatch.setattr("tasks.settings.in_pod", lambda: True)
    alert(config=presets.demo(), kickoff_time=SUNDAY, err=failed(IN_VALIDATION))
    assert "nobody else was told" in caplog.text and "clippo/webhook" in caplog.text
    assert "execution local/local/local" in caplog.text
