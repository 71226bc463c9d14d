"""Accounts in the store: names, passwords, links, sessions, the audit log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from puna.store import audit, erasing, logins, people, store
from puna.store.faults import Conflict, Missing, Refused
from puna.store.names import folded, likeness, shown
from puna.store.own import OTHERS, OWN, own_data
from puna.store.passwords import Cost, Passwords, check_password
from puna.store.store import Store, open_store
from puna.store.tables import Account, Base, Invite, Login

QUICK = Cost(1, 8, 1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "puna.db")
    yield opened
    opened.close()


def joined(place: Store, name: str, role: str = "annotator", password: str | None = "hash") -> int:
    with place.write() as session:
        return people.add_account(session, name, role, password).id


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    moment = store.now() + seconds
    for module in (logins, people):
        monkeypatch.setattr(module, "now", lambda: moment)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  Anna   Maria ", "Anna Maria"),
        ("\uff21nna", "Anna"),
        ("Ren\u0065\u0301e", "Ren\u00e9e"),
        ("\u674e\u96f7", "\u674e\u96f7"),
        ("\u0905\u0928\u093f\u0932", "\u0905\u0928\u093f\u0932"),
        ("\u0421\u0430\u0440\u0430", "\u0421\u0430\u0440\u0430"),
        ("o'brien-2@lab.org", "o'brien-2@lab.org"),
    ],
)
def test_a_name_of_any_writing_is_kept_in_one_form(given: str, kept: str) -> None:
    assert shown(given) == kept


@pytest.mark.parametrize(
    "given",
    [
        *("", "   ", "x" * 65, "\u00df" * 40, "<b>Anna", "a/b", ".anna", "anna\u202etxt.exe"),
        *("an\u200bna", "an\u00adna", "a\u2066nna", "anna\n", "\u0430nna", "p\u03b1yp\u03b1l"),
        *("anna\u0301\u0301\u0301\u0301\u0301", "anna\u0663", "\u2028a", "\U0001f999", "a\ue000"),
    ],
)
def test_a_name_that_hides_or_mixes_is_refused(given: str) -> None:
    with pytest.raises(Refused):
        shown(given)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Sara", "SARA"),
        ("Capa", "\u0421\u0430\u0440\u0430"),
        ("ANNA", "\u0391\u039d\u039d\u0391"),
        ("bob", "b0b"),
        ("Ian", "lan"),
        ("modern", "modem"),
        ("Stra\u00dfe", "STRASSE"),
    ],
)
def test_a_name_that_looks_like_another_is_refused(place: Store, first: str, second: str) -> None:
    joined(place, first)
    with pytest.raises(Refused, match="looks like"):
        joined(place, second)


def test_names_that_do_not_look_alike_live_side_by_side(place: Store) -> None:
    for name in ("Anna", "Ann", "Hanna", "Anne", "\u0410\u043d\u043d\u0430", "Bo", "Ian", "Iann"):
        joined(place, name)
    assert folded("ANNA") == folded("\uff41nna ") == "anna"
    assert likeness("Anna") != likeness("Ann")


@pytest.mark.parametrize(
    "password",
    [
        *("short", "x" * 257, "annamaria1", "Anna-Maria", "password12", "P4$$w0rd!!", "qwertyuiop"),
        *("1234567890", "0987654321", "abcdefghij", "aaaaaaaaaaaa", "abcabcabcabc", "12121212121"),
        *("letmein123", "Administrator", "iloveyou2024", "!!welcome!!"),
    ],
)
def test_a_password_that_is_tried_first_is_refused(password: str) -> None:
    with pytest.raises(Refused) as refused:
        check_password(password, "Anna Maria" if password != "annamaria1" else "annamaria")
    assert refused.value.field == "password"


@pytest.mark.parametrize(
    "password",
    ["tea at 4000 m", "\u00e4\u00f6\u00fc\u00df tausend", "x7#Kq!pL0z", "anna goes home"],
)
def test_a_password_of_ones_own_is_taken(password: str) -> None:
    check_password(password, "anna")


def test_a_hash_fits_its_password_alone_and_in_every_spelling_of_it() -> None:
    made = Passwords(QUICK)
    kept = made.hashed("caf\u00e9 at night")
    assert kept.startswith("$argon2id$") and "caf" not in kept
    assert made.matches(kept, "cafe\u0301 at night")
    assert not made.matches(kept, "cafe at night")
    assert not made.matches(None, "nobody's password")
    assert not made.matches("no hash", "caf\u00e9 at night")


def test_a_hash_of_another_cost_is_outgrown_and_ours_takes_64_mib() -> None:
    assert Passwords(Cost(2, 8, 1)).outgrown(Passwords(QUICK).hashed("x"))
    assert not Passwords(QUICK).outgrown(Passwords(QUICK).hashed("x"))
    assert "m=65536,t=3,p=4$" in Passwords().hashed("x")


def test_an_invite_works_once_and_for_its_time(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.write() as session:
        token = people.invite(session, "invite", "reviewer", "Bo")
        old = people.invite(session, "invite", "reviewer")
    with place.write() as session:
        assert people.accept(session, token, "Bo", "hash").role == "reviewer"
    with pytest.raises(Missing), place.write() as session:
        people.accept(session, token, "Bob", "hash")
    later(monkeypatch, 8 * 86400)
    with pytest.raises(Missing), place.read() as session:
        people.open_link(session, old)


def test_an_invite_whose_name_was_refused_works_still(place: Store) -> None:
    joined(place, "Bo")
    with place.write() as session:
        token = people.invite(session, "invite")
    with pytest.raises(Refused), place.write() as session:
        people.accept(session, token, "BO", "hash")
    with place.write() as session:
        assert people.accept(session, token, "Chaska", "hash").name == "Chaska"


def test_the_store_holds_no_token(place: Store) -> None:
    number = joined(place, "Anna")
    with place.write() as session:
        token = people.invite(session, "invite")
        begun = logins.begin(session, number)
        rows = [*session.query(Invite), *session.query(Login)]
        kept = " ".join(str(vars(row)) for row in rows)
    assert token not in kept and begun.token not in kept
    assert len(token) == len(begun.token) == 43  # 256 bits


def test_a_set_up_link_is_made_until_there_is_an_admin(place: Store) -> None:
    with place.write() as session:
        first, second = people.set_up(session), people.set_up(session)
    with pytest.raises(Missing), place.read() as session:
        people.open_link(session, first)
    with place.write() as session:
        assert people.accept(session, second, "Ada", "hash").role == "admin"
        assert people.set_up(session) == ""


def test_a_set_up_link_is_dead_once_another_way_led_to_an_admin(place: Store) -> None:
    with place.write() as session:
        token = people.set_up(session)
    joined(place, "Ada", "admin")
    with pytest.raises(Missing), place.write() as session:
        people.accept(session, token, "Eve", "hash")


def test_a_reset_ends_all_sessions_and_a_second_one_ends_the_first(place: Store) -> None:
    number = joined(place, "Anna")
    with place.write() as session:
        begun = logins.begin(session, number)
        first = people.invite(session, "reset", account_id=number)
        second = people.invite(session, "reset", account_id=number)
    with pytest.raises(Missing), place.write() as session:
        people.accept(session, first, "", "new")
    with place.write() as session:
        assert people.accept(session, second, "", "new").password == "new"
        assert logins.find(session, begun.token) is None


def test_the_last_admin_stays(place: Store) -> None:
    ada = joined(place, "Ada", "admin")
    for change in (
        lambda session: people.change_role(session, ada, "reviewer"),
        lambda session: people.disable(session, ada),
        lambda session: erasing.erase(session, ada),
    ):
        with pytest.raises(Conflict), place.write() as session:
            change(session)
    joined(place, "Bo", "admin")
    with place.write() as session:
        assert people.change_role(session, ada, "reviewer")


@pytest.mark.parametrize("change", ["role", "disable"])
def test_a_change_of_rights_ends_the_sessions(place: Store, change: str) -> None:
    number = joined(place, "Anna")
    with place.write() as session:
        token = logins.begin(session, number).token
        assert logins.find(session, token) is not None
        if change == "role":
            people.change_role(session, number, "reviewer")
        else:
            people.disable(session, number)
            people.enable(session, number)
        assert logins.find(session, token) is None


def test_a_session_ends_when_it_rests_and_when_it_is_old(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = joined(place, "Anna")
    with place.write() as session:
        begun = logins.begin(session, number)
        for days in range(6, 30, 6):
            with monkeypatch.context() as clock:
                later(clock, days * 86400)
                assert logins.find(session, begun.token) is not None
                logins.touch(session, begun.id)
        with monkeypatch.context() as clock:
            later(clock, 30 * 86400 + 1)
            logins.touch(session, begun.id)
            assert logins.find(session, begun.token) is None  # whatever happens
        rested = logins.begin(session, number)
        later(monkeypatch, 7 * 86400 + 1)
        assert logins.find(session, rested.token) is None


def test_nobody_ends_the_session_of_another(place: Store) -> None:
    anna, bo = joined(place, "Anna"), joined(place, "Bo")
    with place.write() as session:
        begun = logins.begin(session, anna)
    with pytest.raises(Missing), place.write() as session:
        logins.end(session, begun.id, bo)
    with place.write() as session:
        logins.end(session, begun.id, anna)
        assert logins.find(session, begun.token) is None


def test_a_single_user_is_one_person_in_a_store_of_their_own(place: Store) -> None:
    with place.write() as session:
        first, second = people.single_user(session), people.single_user(session)
        with pytest.raises(Missing):
            people.open_link(session, first)
        assert people.accept(session, second, "", None).name == people.SINGLE
        assert [one["name"] for one in people.people(session)] == ["you"]
    joined(place, "Bo")
    with pytest.raises(Refused, match="has accounts"), place.write() as session:
        people.single_user(session)


def test_the_audit_log_is_read_by_pages_and_by_what_happened(place: Store) -> None:
    anna = joined(place, "Anna")
    with place.write() as session:
        for number in range(7):
            audit.note(session, "login" if number % 2 else "denied", anna, f"task:{number}")
        newest = audit.lines(session, limit=4)
        assert [line["object"] for line in newest] == ["task:6", "task:5", "task:4", "task:3"]
        older = audit.lines(session, before=newest[-1]["id"])
        assert [line["object"] for line in older] == ["task:2", "task:1", "task:0"]
        assert {line["name"] for line in audit.lines(session, action="login")} == {"Anna"}
        assert audit.lines(session, account_id=anna + 1) == []
        assert audit.actions(session) == ["denied", "login"]


def test_what_one_takes_along_is_all_of_ones_own_and_no_secret(place: Store) -> None:
    anna, bo = joined(place, "Anna", password="$argon2id$"), joined(place, "Bo")
    with place.write() as session:
        begun = logins.begin(session, anna)
        logins.begin(session, bo)
        audit.note(session, "login", anna)
        found = own_data(session, anna)
        digest = session.get(Login, begun.id).sha256
    assert [one["name"] for one in found["account"]] == ["Anna"]
    assert len(found["sessions"]) == len(found["audit"]) == 1
    text = str(found)
    assert digest not in text and begun.csrf not in text and "argon2id" not in text


def test_every_table_that_names_a_person_is_in_what_one_takes_along_or_is_excused() -> None:
    naming = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if any(key.column.table is Account.__table__ for key in column.foreign_keys)
    }
    listed = {(table.__tablename__, column) for table, column in OWN.values()} | OTHERS
    assert naming <= listed
