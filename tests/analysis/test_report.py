"""What the results page says of runs from several machines, and of encoders that are new."""

from dataclasses import replace

from builders import record

from dlilib.analysis import claims, report
from dlilib.study import presets
from dlilib.training.store import Store

BASE = presets.PRESETS["lite"].base
SECOND = presets.PRESETS["lite"].second_encoders[0]


def keep(folder, run, precision="fp32", right=9):
    found = record(run, [[right, 10 - right, 0]] * 4)
    found["machine"]["precision"] = precision
    found["data"]["train"] = [50, 20, 10, 10, 10, 10]
    Store(folder / "lite").finish(run, found)


def test_page_says_which_runs_are_in_which_precision(tmp_path):
    keep(tmp_path, BASE)
    assert "pool the precisions" not in report.report(tmp_path)
    assert "Finished: 1 of 174 planned runs." in report.summary("lite", tmp_path).replace("\n", " ")
    keep(tmp_path, replace(BASE, seed=1), "bf16")
    page = report.report(tmp_path)
    assert "(1 on CPU, bf16; 1 on CPU, fp32)" in page
    assert "Tables pool the precisions" in page
    words = report.summary("lite", tmp_path).replace("\n", " ")
    assert "Finished: 2 of 174 planned runs (1 in bf16 and 1 in fp32)." in words


def test_summary_says_of_which_encoder_a_referee_would_ask(tmp_path):
    keep(tmp_path, BASE)
    assert "What a referee would ask" not in report.summary("lite", tmp_path)
    keep(tmp_path, replace(BASE, encoder=SECOND))
    words = " ".join(report.summary("lite", tmp_path).split())
    assert "What a referee would ask, of resnet18: - **" in words


def test_rows_over_different_seeds_are_said_not_to_compare(tmp_path):
    for method, seed, right in (("dli", 0, 9), ("baseline", 0, 8), ("baseline", 1, 5)):
        keep(tmp_path, replace(BASE, method=method, seed=seed), right=right)
    assert report.UNLIKE in report.summary("lite", tmp_path)
    said = (
        "Rows of different n do not compare. Over the seeds that all have (resnet18), the paper's "
        "split (n = 1): baseline 0.800 and dli 0.900."
    )
    assert said in report.report(tmp_path)
    keep(tmp_path, replace(BASE, method="dli", seed=1))
    assert "do not compare" not in report.summary("lite", tmp_path)
    assert "do not compare" not in report.report(tmp_path)


def test_lead_of_an_encoder_that_is_not_in_the_paper_is_a_sign(tmp_path):
    folder = tmp_path / "lite"
    for encoder in (BASE.encoder, SECOND):
        for method in ("baseline", "dli"):
            keep(tmp_path, replace(BASE, encoder=encoder, method=method))
    found = claims.verdicts(claims.claims("lite", folder, [BASE.encoder, SECOND]))
    first, _, second, _ = report.verdict_in_words(found)
    assert "DLI's lead (resnet18) is" in first
    assert f"DLI's lead ({SECOND}; no number in the paper, so its sign alone) is" in second


def test_leads_stand_beside_the_papers(tmp_path):
    for encoder in (BASE.encoder, SECOND):
        for seed, right in ((0, 5), (1, 8)):
            keep(
                tmp_path, replace(BASE, encoder=encoder, method="baseline", seed=seed), right=right
            )
            keep(tmp_path, replace(BASE, encoder=encoder, method="dli", seed=seed), right=9)
    keep(tmp_path, replace(BASE, method="focal"), right=9)
    said = report.summary("lite", tmp_path).replace("\n", " ")
    lead = "DLI's mean IoU less the rival's, by the paper's protocol"
    ours = "baseline 0.250 (0.034; n = 2) and focal 0.000 (0.122; n = 1)"
    assert f"{lead} (resnet18; in brackets the paper's): {ours}. {lead}" in said
    assert f"{lead} ({SECOND}): baseline 0.250." in said
