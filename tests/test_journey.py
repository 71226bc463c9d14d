"""The whole human loop in a real browser: invited, qualified, judging, measured, exported, learnt
from, served, compared, and judged again.

PUNA_PICTURES=docs/pages keeps a picture of every page; PUNA_JOURNEY=runs/cafe takes the models of a
finished run instead of tiny ones that were trained for seconds.
"""

import functools
import json
import os
import re
from pathlib import Path

import pytest

from benchmarks.kill_resume import MICRO, run_whole
from puna.store.store import open_store
from puna.web.site.app import all_routes
from tests.filled import fill
from tests.journey import Someone, puna, served, someone
from tests.pages import add_account

pytestmark = pytest.mark.slow

HEAVIEST = 2_500_000  # bytes of all pictures

PROMPTS = (
    "What does a latte cost?",
    "When do you open on Sunday?",
    "Do you have anything without milk?",
    "Two espressos and a croissant, please.",
    "Which tea would you recommend on a cold day?",
    "Is there walnut in the banana bread?",
    "Can I pay by card?",
    "What is the smallest thing on the menu?",
    "Who made the coffee today?",
    "Do you serve breakfast after noon?",
    "How much are a tea and a scone together?",
    "What would you take with a flat white?",
)
QUESTIONS = (
    "What does a latte cost?",
    "Can I get two oat lattes and a scone?",
    "When do you open on Friday, and who is there then?",
    "What would you take if you were very hungry and had ten dollars?",
    "Tell me about your teas, please.",
)
TEST = (
    ("Do you have oat milk?", "Yes, for every drink.", "Go away.", 0),
    ("Where can I sit?", "No.", "By the window, or outside.", 1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the paper."""
    if given := os.environ.get("PUNA_JOURNEY"):
        return Path(given).absolute()
    folder = tmp_path_factory.mktemp("paper") / "run"
    run_whole(MICRO, folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go."""
    return Path(os.environ.get("PUNA_PICTURES", tmp_path / "pictures"))


def invited(admin: Someone, who: str, role: str) -> str:
    """The link of an invitation that the admin makes."""
    page = admin.open("/people")
    page.locator(f"#invite input[value={role}]").check(force=True)
    page.get_by_label("For whom").fill(who)
    page.get_by_role("button", name="Make a link").click()
    link: str = page.locator("dialog #link").input_value()
    page.get_by_role("button", name="Done").click()
    return link


def begun(admin: Someone) -> str:
    """A campaign that the admin makes, with a test, and prompts that the engine answers ahead."""
    page = admin.open("/campaigns/new")
    page.locator("input[name=kind][value=preference]").check(force=True)
    page.get_by_label("Name").fill("The cafe, first week")
    page.get_by_label("People for each item").fill("2")
    page.get_by_label("Pass mark of the test").fill("50")
    page.get_by_label("Gold items").fill("0")
    page.get_by_label("Longest conversation").fill("1")
    for place, temperature in enumerate(("0.7", "1")):
        row = page.locator(".variant").nth(place)
        row.locator("[data-part=model]").fill("first")
        row.locator("[data-part=temperature]").fill(temperature)
        row.locator("[data-part=max_tokens]").fill("40")
    admin.picture("campaign-new")
    page.get_by_role("button", name="Create campaign").click()
    page.wait_for_url(re.compile(r"/campaigns/\d+$"))
    path = page.url.removeprefix(admin.base)
    page.get_by_role("tab", name="Add items").click()
    page.locator("input[name=for][value=qualification]").check(force=True)
    for prompt, first, second, better in TEST:
        page.locator("#b-prompt").fill(prompt)
        page.locator("#b-first").fill(first)
        page.locator("#b-second").fill(second)
        page.locator(f"#b-chosen input[value='{better}']").check(force=True)
        page.get_by_role("button", name="Put on the list").click()
    admin.picture("campaign-items")
    page.get_by_role("button", name="Store 2 items").click()
    page.locator("#result").get_by_text("2 items").wait_for()
    page.locator("input[name=for][value=normal]").check(force=True)
    page.locator("#text").fill("\n".join(PROMPTS))
    page.get_by_role("button", name="Add a batch").click()
    page.locator("#result").get_by_text("12 items").wait_for()
    page.get_by_role("button", name="Open").click()
    return path


def merit(answer: str) -> tuple[bool, bool, int]:
    """How good an answer looks to somebody in a hurry."""
    text = answer.partition("\n")[2] or answer
    return ("not sure" not in text and "Go away" not in text, "Yes," in text, len(text))


def judged(who: Someone, campaign: str, strength: dict[str, str]) -> None:
    """The test and the twelve items, by keyboard; the better one is the longer, mostly."""
    page = who.open(campaign.replace("/campaigns/", "/annotate/"))
    done = 0
    while done < len(TEST) + len(PROMPTS):
        page.locator("#task").wait_for()
        before = page.locator("#pair").inner_text()
        first, second = (page.locator("#pair .answer").nth(n).inner_text() for n in (0, 1))
        left = merit(first) > merit(second)
        if done % 5 == 4:  # people differ now and then
            left = left if strength["left"] == "1" else not left
        if done == len(TEST) + 1:
            page.keyboard.press("m")
            page.locator("#comment").fill("Both are a little short.")
            page.locator("#comment").press("Escape")
        page.keyboard.press(strength["left" if left else "right"])
        if done == len(TEST) + 1:
            who.picture(f"annotate-{who.name.lower()}")
        page.keyboard.press("b")
        if page.locator("#task").is_visible() and page.locator("#pair").inner_text() == before:
            page.keyboard.press("Enter")
        done += 1
        page.wait_for_function(
            "before => document.querySelector('#pair').innerText !== before"
            " || document.querySelector('#task').hidden",
            arg=before,
        )
    page.locator("#nothing").wait_for()


def learnt(run: Path, judgements: Path, folder: Path) -> Path:
    """A reward model from the judgements, and the next version that it picks answers for."""
    sizes = ["--batch_size=4", "--micro_tokens=1024", "--optim.warmup=1"]
    chat = run / "sft" / "checkpoint"
    puna(
        "reward",
        f"--run={folder}/helpfulness",
        f"--model={chat}",
        f"--preferences={judgements}",
        *sizes,
    )
    safety = run / "v1" / "safety" / "checkpoint"
    tuning = [
        "--tuning.optim.warmup=1",
        "--tuning.epochs=2",
        "--tuning.batch_size=4",
        "--tuning.micro_batch_size=2",
    ]
    sampling = ["--samples=2", "--temperatures=0.8", "--sweep_prompts=2", "--prompt_count=16"]
    puna(
        "rejection",
        *(f"--run={folder}/rejection", f"--base={chat}", f"--model={chat}"),
        *(f"--helpfulness={folder}/helpfulness/checkpoint", f"--safety={safety}"),
        *(f"--prompts={run}/prepare/prompts.jsonl", "--max_tokens=24", "--tuning.seq_len=256"),
        *sampling,
        *tuning,
    )
    return folder / "rejection" / "checkpoint"


def compared(who: Someone) -> None:
    """A question to two versions side by side, one of them chosen; then a thumb with a rewrite."""
    page = who.open("/chat")
    page.locator("#model-a").select_option("first")
    page.locator("#compare").click()
    page.get_by_label("Model", exact=True).last.select_option("second")
    who.picture("chat-settings")
    for question in QUESTIONS:  # two models can say the same
        page.locator("#text").fill(question)
        page.keyboard.press("Enter")
        page.locator(".verdict").last.wait_for(timeout=60_000)
        if page.get_by_role("button", name="second: better", exact=True).count():
            break
    who.picture("chat-compare")
    page.get_by_role("button", name="second: better", exact=True).click()
    page.locator(".verdict").wait_for(state="detached")
    page.locator("#compare").click()
    page.locator("#text").fill("And a tea?")
    page.keyboard.press("Enter")
    page.locator("article.assistant").nth(1).get_by_role("button", name="A bad answer").click()
    page.get_by_label("How it should have been answered").fill("A tea is two euros fifty.")
    who.picture("chat-thumb")
    page.get_by_role("button", name="Send", exact=True).last.click()
    page.locator("dialog").first.wait_for(state="detached")
    who.picture("chat")


def rows(path: Path) -> list[dict[str, object]]:
    """The records of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_people_judge_a_model_and_the_next_one_learns_from_it(
    chromium: object, run: Path, pictures: Path, tmp_path: Path
) -> None:
    store, first = tmp_path / "puna.db", f"first={run / 'sft' / 'checkpoint'}"
    with served(store, first) as server:
        link = server.wait_for(r"(http://\S+)/welcome#(\S+)")
        base = link[1]
        server.wait_for("ready")
        admin = someone(chromium, "Rita", base, pictures)
        admin.come_in(link[0])
        admin.picture("home")
        links = {name: invited(admin, name, "annotator") for name in ("Ana", "Ben")}
        admin.picture("people")
        campaign = begun(admin)
        people = [someone(chromium, name, base, pictures) for name in links]
        for who, keys in zip(
            people, ({"left": "1", "right": "0"}, {"left": "2", "right": "9"}), strict=True
        ):
            who.come_in(links[who.name])
            judged(who, campaign, keys)
            who.open("/annotate")
            who.picture("annotate")
        admin.open(campaign)
        admin.picture("campaign")
        page = admin.open("/quality")
        page.locator("#agreement").get_by_text("AC2").first.wait_for()
        admin.picture("quality")
        port = int(base.rpartition(":")[2])

    out = tmp_path / "judged.jsonl"
    puna("export", "preferences", f"--store={store}", f"--out={out}")
    found = rows(out)
    assert {row["annotator"] for row in found} and len(found) > len(PROMPTS)
    second = f"second={learnt(run, out, tmp_path / 'learnt')}"
    with served(store, first, second, port=port) as server:
        server.wait_for("ready; try it")
        compared(people[0])
    puna("export", "preferences", f"--store={store}", f"--out={tmp_path / 'again.jsonl'}")
    talked = [row for row in rows(tmp_path / "again.jsonl") if row not in found]
    assert [row["chosen"][0]["content"] for row in talked if "euros fifty" in str(row)]
    assert len(talked) == 2  # the choice between two versions, and the rewrite
    assert [who.faults for who in (admin, *people)] == [[], [], []]


def pictured(page: str) -> str:
    """The name of a page's picture, by the route."""
    return re.sub(r"/?\{\w+:int\}", "-one", page).strip("/").replace("/", "-") or "home"


PAGES = [
    route.path
    for route in all_routes()
    if route.method == "GET" and not route.path.startswith(("/api/", "/static/"))
]
LONG = ("/quality", "/evaluation", "/redteam/results")  # pictured to their end
HERS = ("/annotate/{campaign:int}", "/chat/{number:int}", "/redteam/attempts/{id:int}")


def test_there_is_a_picture_of_every_page_with_data(
    chromium: object, run: Path, pictures: Path, tmp_path: Path
) -> None:
    opened, cookies = open_store(tmp_path / "puna.db"), {"Rita Quispe": "rita", "Ana Flores": "ana"}
    filled = fill(opened)
    for name, cookie in cookies.items():
        add_account(opened, name, cookie=cookie, csrf=cookie)
    opened.close()
    model = next(p for p in (run / "v2/ppo/checkpoint", run / "sft/checkpoint") if p.is_dir())
    with served(tmp_path / "puna.db", f"v3={model}") as server:
        base = server.wait_for(r"listening on (http://[^/]+)/")[1].replace("127.0.0.1", "localhost")
        server.wait_for("ready; try it")
        see = functools.partial(someone, chromium, base=base, pictures=pictures)
        rita, ana = (see(name, cookie=cookie) for name, cookie in cookies.items())
        nobody = see("nobody")
        for path in PAGES:
            out = path in ("/login", "/welcome")
            who = nobody if out else ana if path in (*HERS, "/me/figures", "/feedback") else rita
            page = who.open(filled.url(path))
            if path == "/quality":
                page.locator("[name=campaign]").select_option(str(filled.campaigns["preference"]))
                page.get_by_text("Batch 4", exact=True).first.wait_for()
                page.locator("[aria-busy=true]").first.wait_for(state="detached")
            who.picture(pictured(path), full=path in LONG)
        dark, phone = see("dark", dark=True, cookie="ana"), see("phone", phone=True, cookie="ana")
        dark.open(filled.url("/chat/{number:int}"))
        dark.picture("dark")
        phone.open(filled.url("/annotate/{campaign:int}"))
        phone.picture("phone")
    assert {pictured(path) for path in PAGES} <= {found.stem for found in pictures.glob("*.png")}
    assert sum(found.stat().st_size for found in pictures.glob("*.png")) < HEAVIEST
    assert [who.faults for who in (rita, ana, nobody, dark, phone)] == [[]] * 5
