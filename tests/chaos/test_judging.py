"""Packed questions and other judges at the chaos server, seen through the real SDK."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.chaos.sdk_calls import RIGHT, WRONG, ask, packed, params, reply_in
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults
from tests.messages_api import honest_judge, verdict


def test_a_pack_is_judged_one_by_one_and_each_of_its_questions_is_counted(api: ChaosApi) -> None:
    api.start_over()
    ask(api, params(WRONG))
    reply = reply_in(ask(api, packed(RIGHT, WRONG, RIGHT + "!")))
    stats = api.stats()
    assert [entry.pop("index") for entry in reply["verdicts"]] == [0, 1, 2]
    asked = json.loads(params()["messages"][0]["content"])
    expected = [honest_judge({**asked, "completion": completion}) for completion in (RIGHT, WRONG, RIGHT + "!")]
    assert reply["verdicts"] == expected
    assert stats.calls == 2 and (stats.times_asked, stats.times_answered) == ({1: 2, 2: 1}, {1: 2, 2: 1})


@pytest.mark.parametrize("fault", ["pack_missing", "pack_duplicated", "pack_out_of_range", "pack_malformed"])
def test_a_fault_in_a_pack_spoils_one_entry_and_no_single_question(api: ChaosApi, fault: str) -> None:
    completions = [f"{RIGHT}{i}" for i in range(5)]
    api.start_over(faults=Faults(**{fault: 1.0}))
    entries = reply_in(ask(api, packed(*completions)))["verdicts"]
    assert reply_in(ask(api, params()))["verdict"] == "equivalent"
    stats = api.stats()
    num_indices = Counter(entry["index"] for entry in entries)
    good = [entry for entry in entries if entry.keys() == {"index", *verdict("equivalent")}]
    good = [entry for entry in good if entry["verdict"] != "perhaps" and entry["trimmed_completion"] != 7]
    usable = [entry["index"] for entry in good if num_indices[entry["index"]] == 1 and 0 <= entry["index"] < 5]
    assert len(usable) == 4 and len(entries) == {"pack_missing": 4, "pack_duplicated": 6}.get(fault, 5)
    assert stats.times_answered == {0: 1, 1: 5} and stats.faults == {fault: 1}


def test_the_judge_can_be_another_one(api: ChaosApi) -> None:
    api.start_over(judge="tests.chaos.judges:WaveringJudge")
    kinds = [reply_in(ask(api, params()))["verdict"] for _ in range(4)]
    assert kinds == ["equivalent", "equivalent", "not_equivalent", "equivalent"]
