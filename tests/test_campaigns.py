"""Campaigns: their rules, their states, their batches, and the pages' routes."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.store import batches, campaigns
from puna.store.faults import Conflict, Missing, Refused
from puna.store.rules import AIMS, KINDS, Variant, check, defaults
from puna.store.store import Store, now
from puna.store.tables import Audit, Item, Qualification
from puna.text.tokenizer import Tokenizer
from tests.campaigns import ON_SQLITE, item_ids, judge, made, rules, upload
from tests.pages import add_account, serving_pages

PAIR = {"prompt": "Why?", "answers": ["right", "wrong"], "chosen": 0}


@pytest.fixture
def ada(store: Store) -> int:
    """The admin of a store."""
    return add_account(store, "Ada", "admin")


def edit(store: Store, by: int, campaign: int, **changes: Any) -> None:
    """New rules for a campaign."""
    with store.write() as session:
        before = campaigns.rules_of(campaigns.find(session, campaign))
        campaigns.edit(session, by, campaign, replace(before, **changes))


def become(store: Store, by: int, campaign: int, state: str) -> None:
    """Open or close a campaign."""
    with store.write() as session:
        campaigns.change_state(session, by, campaign, state)


def stored(store: Store, campaign: int) -> list[Item]:
    """A campaign's items."""
    with store.read() as session:
        return [session.get_one(Item, number) for number in item_ids(store, campaign)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aim", AIMS)
def test_the_defaults_of_every_kind_can_be_used_as_they_are(kind: str, aim: str) -> None:
    found = replace(defaults(kind, aim, "tiny"), name="First")
    if kind == "evaluation":  # which two are compared cannot be guessed
        found = replace(found, variants=[Variant("a"), Variant("b")])
    check(found)
    assert len(found.guidelines) > 500
    assert found.overlap == (3 if kind == "evaluation" else 1)


def test_an_evaluation_begins_with_the_paper_s_limits() -> None:
    found = defaults("evaluation", "helpfulness", "tiny")
    assert found.settings["context_tokens"] == 1000
    assert {variant.max_tokens for variant in found.variants} == {1000}
    assert len(found.settings["categories"]) == 5


REFUSED = [
    ({"name": ""}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": "two\nlines"}, "name"),
    ({"kind": "poll"}, "kind"),
    ({"aim": "speed"}, "aim"),
    ({"guidelines": " "}, "guidelines"),
    ({"guidelines": "x" * 50_001}, "guidelines"),
    ({"overlap": 0}, "overlap"),
    ({"overlap": 26}, "overlap"),
    ({"quota": -1}, "quota"),
    ({"lease_seconds": 29}, "lease_seconds"),
    ({"lease_seconds": float("nan")}, "lease_seconds"),
    ({"max_turns": 0}, "max_turns"),
    ({"gold_share": 0.6}, "gold_share"),
    ({"pass_mark": 1.1}, "pass_mark"),
    ({"variants": [Variant("a")]}, "variants"),
    ({"variants": []}, "variants"),  # own prompts need models
    ({"variants": [Variant("a"), Variant(" ")]}, "variants[1].model"),
    ({"variants": [Variant("a", 2.1), Variant("b")]}, "variants[0].temperature"),
    ({"variants": [Variant("a"), Variant("b", top_p=0)]}, "variants[1].top_p"),
    ({"variants": [Variant("a"), Variant("b", max_tokens=0)]}, "variants[1].max_tokens"),
    ({"variants": [Variant("a", 0), Variant("a", 0)]}, "variants[1].temperature"),
    ({"variants": [Variant("a")] * 9}, "variants"),
    ({"settings": {"color": "red"}}, "settings.color"),
    ({"settings": {"round": 1}}, "settings.round"),
    ({"settings": {"categories": "dialogue"}}, "settings.categories"),
    ({"settings": {"categories": ["a", ""]}}, "settings.categories[1]"),
    ({"settings": {"categories": ["a", "a"]}}, "settings.categories[1]"),
    ({"settings": {"categories": ["x" * 65]}}, "settings.categories[0]"),
    ({"settings": {"review_share": 2}}, "settings.review_share"),
    ({"settings": {"context_tokens": -1}}, "settings.context_tokens"),
    ({"kind": "evaluation", "max_turns": 2}, "max_turns"),
    ({"kind": "evaluation", "max_turns": 1, "own_prompts": True}, "own_prompts"),
    ({"kind": "redteam", "variants": [], "settings": {}}, "variants"),
    ({"kind": "redteam", "settings": {"risks": [], "vectors": ["a"]}}, "settings.risks"),
    ({"kind": "redteam", "pass_mark": 0.5}, "pass_mark"),
]


@pytest.mark.parametrize(("changes", "field"), REFUSED)
def test_a_rule_that_cannot_be_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refusal:
        check(replace(rules(), **changes))
    assert refusal.value.field == field
    assert "\n" not in str(refusal.value)


def test_two_variants_that_are_equal_are_no_evaluation() -> None:
    same = [Variant("a", 0.5), Variant("a", 0.5)]
    with pytest.raises(Refused, match=r"variants\[1\]: is the same"):
        check(rules(kind="evaluation", max_turns=1, own_prompts=False, variants=same))


def test_a_name_is_given_once(store: Store, ada: int) -> None:
    first, second = made(store, ada, name="One"), made(store, ada, name="Two")
    with pytest.raises(Refused, match="name: there is a campaign 'One' already"):
        made(store, ada, name="One")
    with pytest.raises(Refused, match="name: there is a campaign 'One' already"):
        edit(store, ada, second, name="One")
    edit(store, ada, first, name="One", overlap=2)


def test_a_campaign_opens_when_it_has_what_its_rules_need(store: Store, ada: int) -> None:
    campaign = made(store, ada, own_prompts=False, pass_mark=0.8, gold_share=0.1)
    with pytest.raises(Refused, match="state: the campaign has no items"):
        become(store, ada, campaign, "open")
    upload(store, ada, campaign, "a prompt")
    with pytest.raises(Refused, match=r"pass_mark: is 0\.8, but no item belongs to the test"):
        become(store, ada, campaign, "open")
    upload(store, ada, campaign, json.dumps(PAIR), purpose="qualification")
    with pytest.raises(Refused, match=r"gold_share: is 0\.1, but there is no gold item"):
        become(store, ada, campaign, "open")
    upload(store, ada, campaign, json.dumps(PAIR), purpose="gold")
    become(store, ada, campaign, "open")
    with pytest.raises(Conflict, match="is open, it cannot become open"):
        become(store, ada, campaign, "open")
    become(store, ada, campaign, "closed")
    with pytest.raises(Conflict, match="the campaign is closed"):
        upload(store, ada, campaign, "another")
    become(store, ada, campaign, "open")
    with store.read() as session:
        assert [line.action for line in session.query(Audit).order_by(Audit.id)][-3:] == [
            *("campaign_open", "campaign_closed"),
            "campaign_open",
        ]


@ON_SQLITE
def test_a_campaign_of_own_prompts_opens_without_items(store: Store, ada: int) -> None:
    become(store, ada, made(store, ada, own_prompts=True), "open")


@ON_SQLITE
def test_a_red_team_campaign_has_no_items_and_opens_without(store: Store, ada: int) -> None:
    cells = {"risks": ["fraud"], "vectors": ["role play"], "round": 1}
    campaign = made(store, ada, kind="redteam", settings=cells)
    with pytest.raises(Refused, match="kind: a red-team campaign has no items"):
        upload(store, ada, campaign, "a prompt")
    become(store, ada, campaign, "open")


@ON_SQLITE
def test_kind_and_aim_are_fixed_by_the_first_item(store: Store, ada: int) -> None:
    campaign = made(store, ada)
    edit(store, ada, campaign, aim="safety")
    upload(store, ada, campaign, "a prompt")
    for changes, field in (
        ({"aim": "helpfulness"}, "aim"),
        ({"kind": "evaluation", "own_prompts": False, "max_turns": 1}, "kind"),
    ):
        with pytest.raises(Refused, match=f"{field}: cannot be changed"):
            edit(store, ada, campaign, **changes)
    edit(store, ada, campaign, variants=[Variant("new", 0.5), Variant("new", 1.0)])


@ON_SQLITE
def test_the_variants_of_an_evaluation_are_fixed_by_the_first_judgement(
    store: Store, ada: int
) -> None:
    evaluation = {"kind": "evaluation", "own_prompts": False, "max_turns": 1}
    campaign = made(store, ada, settings={"review_share": 0.0}, **evaluation)
    upload(store, ada, campaign, json.dumps(PAIR))
    edit(store, ada, campaign, variants=[Variant("v1"), Variant("v2")])
    ben = add_account(store, "Ben")
    with store.write() as session:
        judge(session, session.query(Item).one().id, ben, None, rating=2, strength=None)
    with pytest.raises(Refused, match="variants: cannot be changed, 1 judgements compare them"):
        edit(store, ada, campaign, variants=[Variant("v1"), Variant("v3")])
    edit(store, ada, campaign, quota=5, variants=[Variant("v1"), Variant("v2")])


@ON_SQLITE
def test_the_pass_mark_is_fixed_by_the_first_test(store: Store, ada: int) -> None:
    campaign, ben = made(store, ada, pass_mark=0.8), add_account(store, "Ben")
    edit(store, ada, campaign, pass_mark=0.7)
    with store.write() as session:
        marks = {"right": 7, "answered": 10, "passed": True, "changed": now()}
        session.add(Qualification(campaign_id=campaign, account_id=ben, **marks))
    with pytest.raises(Refused, match="pass_mark: cannot be changed, 1 people were tested"):
        edit(store, ada, campaign, pass_mark=0.9)


def test_a_new_overlap_holds_for_items_that_nobody_has_begun(store: Store, ada: int) -> None:
    campaign, ben = made(store, ada), add_account(store, "Ben")
    lines = [{**PAIR, "prompt": f"question {n}"} for n in range(3)]
    upload(store, ada, campaign, "\n".join(map(json.dumps, lines)))
    upload(store, ada, campaign, json.dumps(PAIR), purpose="gold")
    with store.write() as session:
        judge(session, item_ids(store, campaign)[0], ben)
    edit(store, ada, campaign, overlap=3)
    assert [item.wanted for item in stored(store, campaign)] == [1, 3, 3, campaigns.EVERYBODY]


@ON_SQLITE
def test_there_is_no_campaign_of_an_unknown_number(store: Store, ada: int) -> None:
    with store.write() as session:
        for ask in (
            lambda: campaigns.find(session, 9),
            lambda: campaigns.change_state(session, ada, 9, "open"),
            lambda: batches.item(session, 9, 9),
            lambda: batches.withdraw(session, ada, 9, 9),
        ):
            with pytest.raises(Missing):
                ask()


MIXED = """\
Why is the sky blue?

{"prompt": "Why is grass green?", "category": "factual questions"}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, \
{"role": "user", "content": "Tea?"}], "id": "d7"}
{"messages": [{"role": "user", "content": "Cake?"}, {"role": "assistant", "content": "Yes."}]}
{"prompt": "Which?", "answers": ["this", "that"]}
Why is the sky blue?
{"prompt": "   "}
{"prompt": 3}
{"prompt": "Which one?", "answers": ["same", " same"]}
{"prompt": "Which one?", "answers": ["one"]}
{"prompt": "Far?", "category": "travel"}
{"messages": [{"role": "assistant", "content": "Hello"}]}
{"text": "nothing"}
{not json
{"prompt": "half \\ud800"}
"""


def test_an_upload_takes_what_it_can_and_says_what_it_left_out(store: Store, ada: int) -> None:
    campaign = made(store, ada)
    added = upload(store, ada, campaign, MIXED, source="mixed.jsonl")
    found = stored(store, campaign)
    assert added.items == 5
    assert sum(added.left_out.values()) == 10
    assert added.left_out["is there already"] == 1
    assert {example["line"] for example in added.examples} == {*range(7, 17)}
    assert [item.dialog["messages"][-1]["content"] for item in found] == [
        *("Why is the sky blue?", "Why is grass green?", "Tea?", "Cake?"),
        "Which?",
    ]
    assert [item.state for item in found] == ["preparing"] * 4 + ["ready"]
    assert [item.category for item in found] == ["", "factual questions", "", "", ""]
    assert found[2].dialog["id"] == "d7"
    with store.read() as session:
        [batch] = campaigns.progress(session, campaign)
    assert (batch["source"], batch["counts"]["preparing"]) == ("mixed.jsonl", 4)
    assert batch["left_out"] == dict(added.left_out)


@ON_SQLITE
def test_an_upload_of_nothing_is_refused_and_leaves_no_batch(store: Store, ada: int) -> None:
    campaign = made(store, ada)
    for text in ("", "\n \n", '{"prompt": 1}'):
        with pytest.raises(Refused, match="text: has nothing to add"):
            upload(store, ada, campaign, text)
    with store.read() as session:
        assert campaigns.progress(session, campaign) == []


def test_batches_are_numbered_and_one_can_get_more(store: Store, ada: int) -> None:
    campaign, other = made(store, ada), made(store, ada, name="Other")
    assert upload(store, ada, campaign, "one").batch == 1
    assert upload(store, ada, campaign, "two").batch == 2
    assert upload(store, ada, other, "one").batch == 1
    assert upload(store, ada, campaign, "three\none", batch=1).batch == 1
    with pytest.raises(Refused, match="batch: the campaign has no batch 7"):
        upload(store, ada, campaign, "four", batch=7)
    with store.read() as session:
        second, first = campaigns.progress(session, campaign)
    assert (first["counts"]["items"], second["counts"]["items"]) == (2, 1)
    assert first["left_out"] == {"is there already": 1}


@ON_SQLITE
@pytest.mark.parametrize("purpose", ["gold", "qualification"])
def test_items_that_test_people_need_answers_and_the_right_one(
    store: Store, ada: int, purpose: str
) -> None:
    campaign = made(store, ada)
    lines = [{"prompt": "a"}, {"prompt": "b", "answers": ["x", "y"]}, PAIR]
    lines.append({**PAIR, "prompt": "c", "chosen": 2})
    added = upload(store, ada, campaign, "\n".join(map(json.dumps, lines)), purpose=purpose)
    assert dict(added.left_out) == {
        f"no answers, which {purpose} items need": 1,
        f"no chosen answer, which {purpose} items need": 1,
        "chosen: expected 0 or 1": 1,
    }
    [item] = stored(store, campaign)
    assert (item.purpose, item.wanted) == (purpose, campaigns.EVERYBODY)


@ON_SQLITE
def test_given_answers_are_put_in_random_order_and_the_right_one_stays_right(
    store: Store, ada: int
) -> None:
    campaign = made(store, ada)
    lines = [{**PAIR, "prompt": f"question {n}"} for n in range(40)]
    upload(store, ada, campaign, "\n".join(map(json.dumps, lines)), purpose="gold")
    found = stored(store, campaign)
    assert {item.answers[item.expected["chosen"]]["text"] for item in found} == {"right"}
    assert 8 < sum(item.expected["chosen"] for item in found) < 32


@ON_SQLITE
@pytest.mark.parametrize(
    ("kind", "purpose", "taken"),
    [("preference", "normal", 1), ("evaluation", "normal", 2), ("evaluation", "gold", 1)],
)
def test_equal_answers_are_an_item_of_an_evaluation_only(
    store: Store, ada: int, kind: str, purpose: str, taken: int
) -> None:
    campaign = made(store, ada, kind=kind, own_prompts=False, max_turns=1, settings={})
    pairs = [{"prompt": text, "answers": ["yes", text], "chosen": 0} for text in ("no", "yes")]
    added = upload(store, ada, campaign, "\n".join(map(json.dumps, pairs)), purpose=purpose)
    assert added.items == taken
    assert added.left_out == ({"the two answers are equal": 1} if taken == 1 else {})


def test_a_preference_is_an_item_whose_chosen_answer_is_right(store: Store, ada: int) -> None:
    campaign = made(store, ada)
    line = {
        "prompt": [{"role": "user", "content": "Tea?"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "safety": "both_safe",
        "variants": {"chosen": {"model": "v2", "temperature": 0.9}, "rejected": "v1"},
    }
    upload(store, ada, campaign, json.dumps(line), purpose="gold")
    [item] = stored(store, campaign)
    right = item.answers[item.expected["chosen"]]
    assert (right["text"], right["model"], right["temperature"]) == ("Yes.", "v2", 0.9)
    assert item.expected["safety"] == "both_safe"
    assert {answer["model"] for answer in item.answers} == {"v1", "v2"}


@ON_SQLITE
def test_a_system_prompt_is_put_before_dialogues_that_have_none(store: Store, ada: int) -> None:
    campaign = made(store, ada)
    own = {"messages": [{"role": "system", "content": "Mine"}, {"role": "user", "content": "b"}]}
    upload(store, ada, campaign, f"a\n{json.dumps(own)}", system="Be kind.")
    heads = [item.dialog["messages"][0]["content"] for item in stored(store, campaign)]
    assert heads == ["Be kind.", "Mine"]


@ON_SQLITE
def test_an_item_becomes_gold_once(store: Store, ada: int) -> None:
    campaign = made(store, ada)
    upload(store, ada, campaign, json.dumps({"prompt": "Why?", "answers": ["x", "y"]}))
    [item] = stored(store, campaign)
    with store.write() as session:
        expected = {"chosen": 1}
        rng = random.Random(3)
        batches.copy(session, ada, campaign, item.id, "gold", expected, rng)
    _, gold = stored(store, campaign)
    assert gold.answers[gold.expected["chosen"]]["text"] == item.answers[1]["text"]
    with pytest.raises(Conflict, match="there is a gold item"), store.write() as session:
        batches.copy(session, ada, campaign, item.id, "gold", {"chosen": 0}, random.Random(3))


def test_progress_counts_judgements_that_count_and_nothing_of_closed_items(
    store: Store, ada: int
) -> None:
    campaign = made(store, ada, overlap=2)
    ben, cleo = add_account(store, "Ben"), add_account(store, "Cleo")
    lines = [{**PAIR, "prompt": f"question {n}"} for n in range(4)]
    upload(store, ada, campaign, "\n".join(map(json.dumps, lines)))
    numbers = item_ids(store, campaign)
    with store.write() as session:
        judge(session, numbers[0], ben)
        judge(session, numbers[0], cleo, review="rejected")
        judge(session, numbers[1], ben, undone=now())
        judge(session, numbers[3], ben)
        batches.withdraw(session, ada, campaign, numbers[3])
    with store.read() as session:
        counts = campaigns.counted(session)[campaign]
        who = {row["name"]: row for row in campaigns.people(session, campaign)}
    assert (counts["done"], counts["wanted"], counts["closed"]) == (2, 7, 1)
    assert (who["Ben"]["done"], who["Cleo"]["done"], who["Cleo"]["rejected"]) == (2, 0, 1)


def test_the_routes_make_fill_open_and_show_a_campaign(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        ada, rita = pages.person("Ada", "admin"), pages.person("Rita", "reviewer")
        asked = ada.http.get("/api/campaigns/defaults?kind=preference&aim=safety").json()
        body = {**asked["rules"], "name": "First"}
        key = {"idempotency-key": "made-once"}
        number = ada.http.post("/api/campaigns", json=body, headers=key).json()["id"]
        again = ada.http.post("/api/campaigns", json=body, headers=key).json()["id"]
        path = f"/api/campaigns/{number}"
        added = ada.http.post(f"{path}/batches", json={"text": json.dumps(PAIR)}).json()
        opened = ada.http.post(f"{path}/state", json={"state": "open"})
        seen = rita.http.get(path).json()["campaign"]
        row = rita.http.get(f"{path}/items?state=ready").json()["items"][0]
        item = rita.http.get(f"{path}/items/{row['id']}").json()["item"]
        shown = [
            rita.http.get(f"/campaigns{rest}").status_code
            for rest in ("", f"/{number}", f"/{number}/items/{row['id']}", "/77", f"/{number}/edit")
        ]
        refused = ada.http.put(path, json={**body, "overlap": 0}).json()["error"]
        stray = ada.http.put(path, json={**body, "settings": {"colour": 1}}).json()["error"]
        hidden = pages.person("Ben").http.get(path).status_code
        told = rita.http.put(path, json=body).status_code
        listed = rita.http.get("/api/campaigns").json()["campaigns"]
    assert number == again
    assert (added["batch"], added["items"]) == (1, 1)
    assert opened.status_code == 200
    assert seen["state"] == "open" and "<h1" in seen["guidelines_html"]
    assert sorted(answer["html"] for answer in item["answers"]) == [
        *('<p dir="auto">right</p>\n', '<p dir="auto">wrong</p>\n'),
    ]
    assert shown == [200, 200, 200, 404, 404]
    assert refused["param"] == "overlap"
    assert stray["param"] == "settings.colour"
    assert (hidden, told) == (404, 404)
    assert [one["id"] for one in listed] == [number]


def test_an_upload_that_is_too_large_is_refused(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        ada = pages.person("Ada", "admin")
        campaign = made(pages.store, ada.id)
        text = "x" * (8 << 20)
        answer = ada.http.post(f"/api/campaigns/{campaign}/batches", json={"text": text})
        assert answer.status_code == 413


def test_the_routes_of_the_review_pass_a_judgement_through(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        ada, rita, ben = pages.person("Ada", "admin"), pages.person("Rita", "reviewer"), "Ben"
        person = pages.person(ben)
        campaign = made(pages.store, ada.id, settings={"review_share": 1.0})
        upload(pages.store, ada.id, campaign, json.dumps({**PAIR, "prompt": "<b>Why</b>?"}))
        with pages.store.write() as session:
            number = judge(session, item_ids(pages.store, campaign)[0], person.id, 0)
        first = rita.http.post("/api/review/next", json={"campaign": campaign}).json()
        path = f"/api/review/{number}"
        short = rita.http.post(path, json={"verdict": "rejected"})
        edited = {"verdict": "edited", "note": "see *this*", "changes": {"chosen": 1}}
        done = rita.http.post(path, json=edited)
        twice = rita.http.post(path, json=edited).status_code
        told = person.http.get("/api/feedback").json()
        upto = {"upto": told["feedback"][0]["id"]}
        read = person.http.post("/api/feedback/read", json=upto).status_code
        after = person.http.get("/api/feedback").json()["unread"]
        undone = rita.http.post("/api/review/undo", json={}).json()
        again = rita.http.post("/api/review/next", json={}).json()
        hidden = person.http.post("/api/review/next", json={}).status_code
        pages_of = [rita.http.get("/review").status_code, person.http.get("/feedback").status_code]
    assert first["next"]["id"] == number and first["waiting"]["share"] == 1
    assert "<b>" not in first["next"]["messages"][0]["html"]
    assert (short.status_code, short.json()["error"]["param"]) == (400, "note")
    assert (done.status_code, twice, read) == (200, 409, 200)
    assert (told["unread"], after) == (1, 0)
    assert "<em>this</em>" in told["feedback"][0]["note_html"]
    assert undone == {"annotation": number} and again["next"]["id"] == number
    assert (hidden, pages_of) == (404, [200, 200])


@ON_SQLITE
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "q", "number": %s}' % ("1" * 5000), "not JSON"),
        ('{"prompt": "q", "tags": {"a": NaN}}', "not JSON"),
        ('{"messages": [{"role": "user", "content": "q"}], "tags": {"a": 1e999}}', "not JSON"),
        ('{"prompt": "q", "tags": {"\\ud800": 1}}', "half a UTF-16 surrogate pair"),
        ('{"prompt": "q\\u0000"}', "holds a NUL character"),
        ('{"prompt": "q", "answers": [{"text": "a", "temperature": 1e99}, "b"]}', "temperature"),
        ('{"prompt": "q", "answers": [{"text": "a", "model": "%s"}, "b"]}' % ("m" * 201), "model"),
    ],
    ids=["digits", "nan", "infinite", "half", "nul", "heat", "name"],
)
def test_a_line_that_no_page_could_show_again_is_left_out(
    store: Store, ada: int, line: str, reason: str
) -> None:
    added = upload(store, ada, made(store, ada), f"fine\n{line}")
    assert added.items == 1
    [left_out] = added.left_out
    assert reason in left_out


@ON_SQLITE
def test_a_prompt_about_the_nul_character_is_taken(store: Store, ada: int) -> None:
    line = '{"prompt": "What is \\\\u0000?"}'
    assert upload(store, ada, made(store, ada), line).items == 1
