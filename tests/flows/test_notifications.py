"""Who is told what: nothing without configuration, at most once a subject and kind in 30 minutes, whatever fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.event import Draft, Event
from audit.stamp import rfc3339
from flows.notifications.notice import alarm_of, harmless, notice_of
from flows.notifications.notifier import EVERY_S, PAUSES_S, Notifier
from flows.notifications.targets import BadNotificationsFile, NoURL, Target, load, parse, url_of
from flows.workspace import Workspace
from ssot.intents import Dispatch, FindDecisionOverdue, RemindOfDecision
from tests.builders import START_S, Ticks, Walk, a_store, write_projects
from tests.flows.chatserver import Chat
from tests.flows.conftest import settings_for
from tests.flows.test_dispatcher import dispatcher, until

ONE = '[target.team]\nurl_env = "CHAT_URL"\n'


@pytest.fixture
def chat() -> Iterator[Chat]:
    with Chat().open() as opened:
        yield opened


class Scene:
    """A workspace with a clock that a test turns, and its notifier."""

    def __init__(self, home: Path, chat: Chat, **settings: Any) -> None:
        self.home, self.chat = home, chat
        self.ticks = Ticks()
        self.store = a_store(home, ticks=self.ticks, max_rejects=1)
        self.workspace = Workspace(settings_for(home, **settings), self.store)
        self.environment = {"CHAT_URL": chat.url}
        self.notifier = self.begin()

    def begin(self) -> Notifier:
        """Another notifier, as after a restart."""
        self.notifier = Notifier(
            self.workspace, seconds=lambda: self.ticks.now, environment=self.environment, timeout_s=5.0
        )
        return self.notifier

    def configure(self, text: str = ONE) -> None:
        (self.home / "config").mkdir(exist_ok=True)
        (self.home / "config" / "notifications.toml").write_text(text)

    def walk(self, task_id: str = "T-1", **more: Any) -> Walk:
        walk = Walk(self.store, task_id)
        walk.create(title="Greet people", **more)
        return walk

    def told(self, type: str = "notification_sent") -> list[Event]:
        return [event for event in self.store.events() if event.type == type]


@pytest.fixture
def scene(tmp_path: Path, chat: Chat) -> Iterator[Scene]:
    made = Scene(tmp_path, chat)
    yield made
    made.notifier.close()
    made.store.close()


def test_without_configuration_nothing_goes_out(scene: Scene) -> None:
    scene.walk().to_gate()
    scene.notifier.turn()
    assert (scene.chat.asked, scene.told(), scene.told("notification_failed")) == (0, [], [])


def test_what_was_before_the_first_start_or_before_the_file_is_not_told(scene: Scene) -> None:
    scene.walk("T-1").to_gate()
    scene.begin()
    scene.walk("T-2").to_gate()
    scene.notifier.turn()
    scene.configure()
    scene.notifier.turn()
    assert scene.chat.titles == []


def test_a_task_at_the_gate_is_told_once_with_a_link_and_no_secret_anywhere(scene: Scene) -> None:
    scene.configure()
    scene.walk(request_text="the secret plan").to_gate("reject")
    scene.notifier.turn()
    scene.notifier.turn()
    (message,) = scene.chat.messages
    assert message["title"] == "Needs review: T-1"
    assert message["message"].splitlines() == [
        "Greet people",
        "Attempt 1 waits for a person; its reviewer says reject, with 2 issues.",
        f"{scene.workspace.settings.api_url}/#/tasks/T-1",
    ]
    (event,) = scene.told()
    verdict = next(one for one in scene.store.events() if one.type == "verdict_received")
    assert (event.subject, event.correlationid) == ("T-1", verdict.correlationid)
    assert event.data == {"kind": "needs_review", "about": "T-1", "target": "team", "for_seq": verdict.seq}
    assert not any(b"sesame" in path.read_bytes() for path in scene.home.rglob("*") if path.is_file())
    assert "plan" not in str(message)


def test_a_second_gate_within_thirty_minutes_waits_and_is_told_when_they_are_over(scene: Scene) -> None:
    scene.configure()
    walk = scene.walk()
    walk.to_gate()
    scene.notifier.turn()
    walk.reject()
    walk.unlock()  # before anybody was told of the lock: not worth telling any more
    walk.to_gate()
    scene.ticks.ahead(EVERY_S - 60)
    scene.notifier.turn()
    assert scene.chat.titles == ["Needs review: T-1"]
    scene.begin().turn()  # a restart does not forget when it was told
    assert len(scene.chat.titles) == 1
    scene.ticks.ahead(120)
    scene.notifier.turn()
    assert scene.chat.titles == ["Needs review: T-1"] * 2
    assert "Attempt 2" in scene.chat.messages[1]["message"]
    scene.notifier.turn()
    assert len(scene.told()) == 2


def test_what_was_decided_while_it_waited_is_not_told(scene: Scene) -> None:
    scene.configure()
    walk = scene.walk()
    walk.to_gate()
    walk.approve()
    scene.notifier.turn()
    assert scene.chat.titles == []


def test_a_lock_is_told_and_subjects_do_not_wait_for_each_other(scene: Scene) -> None:
    scene.configure()
    for task_id in ("T-1", "T-2"):
        walk = scene.walk(task_id)
        walk.to_gate()
        walk.reject()
    scene.notifier.turn()
    assert scene.chat.titles == ["Locked: T-1", "Locked: T-2"]


def test_raised_alerts_are_told_and_those_that_were_cleared_meanwhile_are_not(scene: Scene) -> None:
    scene.configure()
    scene.walk().to_gate()
    scene.notifier.turn()
    scene.store.note(Draft("alert", "kircerta/load", {"alarm": "p95", "state": "raised", "reason": "P95 is 900 ms"}))
    scene.store.note(Draft("alert", "kircerta/load", {"alarm": "disk", "state": "raised"}))
    scene.store.note(Draft("alert", "kircerta/load", {"alarm": "disk", "state": "cleared"}))
    scene.store.note(Draft("alert", "kircerta/load", {"alarm": "p95", "state": "raised", "reason": "P95 is 950 ms"}))
    scene.notifier.turn()
    assert scene.chat.titles[1:] == ["Alert: p95"]
    assert scene.chat.messages[1]["message"] == "P95 is 950 ms"


def test_a_deadline_is_told_before_and_when_it_passes_with_what_the_policy_made_of_it(scene: Scene) -> None:
    scene.configure()
    write_projects(
        scene.home,
        "[project.shop.policy]\ndecision_deadline_s = 7200\nreminders_s = [600]\ndeadline_outcome = 'expired'\n",
    )
    walk = scene.walk(metadata={"project": "shop"})
    walk.to_gate()
    dispatch = walk.task.attempts[-1].dispatch
    assert dispatch is not None
    scene.ticks.ahead(6700)
    walk.do(RemindOfDecision(dispatch.dispatch_id, 600), "watchdog")
    scene.notifier.turn()
    scene.ticks.ahead(600)
    walk.do(FindDecisionOverdue(dispatch.dispatch_id), "watchdog")
    scene.notifier.turn()
    assert walk.task.status == "rejected"
    assert scene.chat.titles[:2] == ["Needs review: T-1", "Decision due soon: T-1"]
    assert scene.chat.titles[2:] == ["Decision overdue: T-1", "Locked: T-1"]  # one rejection locks here
    assert "A decision is due by 20" in scene.chat.messages[1]["message"]
    assert "Its project's policy rejected it." in scene.chat.messages[2]["message"]


@pytest.mark.parametrize(
    ("type", "data", "kind"),
    [
        ("verdict_received", {}, "needs_review"),
        ("decision_reminder", {"due": "2026-01-31T09:00:00Z"}, "deadline_near"),
        ("decision_overdue", {}, "decision_overdue"),
        ("decision_overdue", {"outcome": "expired"}, "decision_overdue"),
        ("reject_lock", {}, "reject_lock"),
        ("alert", {"alarm": "p95", "state": "raised"}, "alert"),
        ("alert", {"alarm": "disk"}, "alert"),
        ("alert", {"alarm": "p95", "state": "cleared"}, None),
        ("attempt_ended", {"ended": {"reason": "executor_failed"}}, None),
        ("heartbeat", {}, None),
    ],
)
def test_which_events_call_for_a_notice(type: str, data: dict[str, Any], kind: str | None) -> None:
    event = Event(7, "e-7", "s", type, rfc3339(START_S), "a", data, "", "T-1", "c-1")
    notice = notice_of(event)
    assert (notice.kind if notice else None) == kind
    if type == "alert":
        assert alarm_of(event) in ("p95", "disk")


def test_many_gates_at_once_are_one_message_and_an_event_each(scene: Scene) -> None:
    scene.configure()
    for number in range(30):
        scene.walk(f"T-{number}").to_gate()
    scene.notifier.turn()
    (message,) = scene.chat.messages
    assert message["title"] == "Needs review: 30 tasks"
    lines = message["message"].splitlines()
    assert (lines[0], lines[20]) == ("T-0: Greet people", "and 10 more")
    assert lines[-1].endswith("/#/?status=needs_review")
    assert [event.data["together"] for event in scene.told()] == [30] * 30
    scene.notifier.turn()
    scene.begin().turn()
    assert scene.chat.asked == 1


# ------------------------------------------------------------------------------------------- what goes wrong


def test_a_service_that_fails_is_tried_again_and_then_it_has_failed(scene: Scene) -> None:
    scene.configure()
    scene.chat.status = 503
    scene.walk().to_gate()
    for pause in (0.0, *PAUSES_S):
        scene.ticks.ahead(pause)
        scene.notifier.turn()
        scene.notifier.turn()  # not before its time
    assert scene.chat.asked == 1 + len(PAUSES_S)
    scene.ticks.ahead(EVERY_S * 2)
    scene.notifier.turn()
    scene.begin().turn()
    (event,) = scene.told("notification_failed")
    assert (event.subject, event.data["target"], event.data["tries"]) == ("T-1", "team", 4)
    assert event.data["reason"] == "the service did not take it"
    assert scene.chat.asked == 1 + len(PAUSES_S)


def test_a_service_that_comes_back_gets_it_once(scene: Scene) -> None:
    scene.configure()
    scene.chat.status = 503
    scene.walk().to_gate()
    scene.notifier.turn()
    scene.chat.status = 200
    scene.ticks.ahead(PAUSES_S[0])
    scene.notifier.turn()
    scene.notifier.turn()
    assert scene.chat.titles == ["Needs review: T-1"]
    assert scene.told("notification_failed") == []


def test_one_target_that_fails_keeps_no_other_from_being_told(scene: Scene) -> None:
    scene.configure(
        f'[target.broken]\nurl_env = "NOWHERE"\n[target.odd]\nurl_env = "ODD"\n{ONE}[target.console]\nurl = "log://"\n'
    )
    scene.environment["ODD"] = "sesame://open/this"
    scene.walk().to_gate()
    for pause in (0.0, *PAUSES_S):
        scene.ticks.ahead(pause)
        scene.notifier.turn()
    assert scene.chat.titles == ["Needs review: T-1"]
    assert sorted(event.data["target"] for event in scene.told()) == ["console", "team"]
    reasons = {event.data["target"]: event.data["reason"] for event in scene.told("notification_failed")}
    assert reasons == {
        "broken": "the environment variable NOWHERE is not set",
        "odd": "its URL is none that Apprise knows",
    }


def test_a_service_that_hangs_is_left_after_its_time_and_asked_once_a_turn(tmp_path: Path, chat: Chat) -> None:
    scene = Scene(tmp_path, chat)
    scene.notifier = Notifier(
        scene.workspace, seconds=lambda: scene.ticks.now, environment=scene.environment, timeout_s=0.3
    )
    scene.configure()
    chat.hang = True
    for number in range(5):
        scene.walk(f"T-{number}").to_gate()
    scene.notifier.turn()
    assert chat.asked == 1
    scene.ticks.ahead(sum(PAUSES_S))
    for _ in PAUSES_S:
        scene.ticks.ahead(60)
        scene.notifier.turn()
    failed = scene.told("notification_failed")
    assert [event.subject for event in failed] == [f"T-{number}" for number in range(5)]
    assert {event.data["reason"] for event in failed} == {"no answer within 0.3 s"}
    chat.released.set()
    scene.notifier.close()
    scene.store.close()


def test_what_came_while_it_was_away_is_told_and_what_it_told_is_not_told_again(scene: Scene) -> None:
    scene.configure()
    scene.walk("T-1").to_gate()
    scene.notifier.turn()
    scene.walk("T-2").to_gate()
    scene.ticks.ahead(EVERY_S * 3)
    scene.begin().turn()
    assert scene.chat.titles == ["Needs review: T-1", "Needs review: T-2"]


def test_a_crash_between_telling_and_its_file_tells_nothing_twice(scene: Scene) -> None:
    scene.configure()
    scene.notifier.turn()
    before = (scene.home / ".kircerta" / "notified.json").read_bytes()
    scene.walk("T-1").to_gate()
    scene.notifier.turn()
    (scene.home / ".kircerta" / "notified.json").write_bytes(before)
    scene.begin().turn()
    assert scene.chat.titles == ["Needs review: T-1"]


def test_a_dry_run_sends_nothing_and_says_so(scene: Scene) -> None:
    scene.configure(f"dry_run = true\n{ONE}")
    scene.walk().to_gate()
    scene.notifier.turn()
    assert scene.chat.asked == 0
    assert [event.data["dry_run"] for event in scene.told()] == [True]


def test_a_broken_file_lets_nothing_out_is_told_once_and_what_waits_goes_out_when_it_is_mended(scene: Scene) -> None:
    scene.configure(f"{ONE}colour = 'blue'\n")
    scene.walk().to_gate()
    for _ in range(3):
        scene.notifier.turn()
    assert scene.chat.asked == 0
    (event,) = scene.told("notification_failed")
    assert "target.team.colour" in event.data["reason"]
    scene.configure()
    scene.notifier.turn()
    assert scene.chat.titles == ["Needs review: T-1"]


# ------------------------------------------------------------------------------------------------ who, what


def test_targets_are_told_of_their_kinds_and_projects_alone(scene: Scene) -> None:
    scene.configure('[target.team]\nurl_env = "CHAT_URL"\nkinds = ["needs_review"]\nprojects = ["shop"]\n')
    (scene.home / "config" / "projects.toml").write_text("[project.shop]\n")
    scene.walk("T-1", metadata={"project": "shop"}).to_gate()
    scene.walk("T-2").to_gate()
    locked = scene.walk("T-3", metadata={"project": "shop"})
    locked.to_gate()
    locked.reject()
    scene.notifier.turn()
    assert scene.chat.titles == ["Needs review: T-1"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[target.a]\nurl = "slack://tokenA/tokenB/tokenC"', "url is log://"),
        ('[target.a]\nurl = "log://"\nurl_env = "X"', "exactly one"),
        ("[target.a]", "exactly one"),
        ('[target.a]\nurl_env = "X=1"', "url_env"),
        ('[target.a]\nurl = "log://"\nkinds = ["everything"]', "kinds"),
        ('[target."A B"]\nurl = "log://"', "target"),
        ("dry_run = 1", "dry_run"),
        ("target = 5", "target"),
        ("surprise = true", "surprise"),
        ("[target.a\nurl = tokenA", "no TOML at line 1"),
        ("\xff", "no TOML"),
    ],
)
def test_a_file_that_is_not_meant_so_is_refused_and_its_values_are_not_repeated(text: str, where: str) -> None:
    with pytest.raises(BadNotificationsFile) as refused:
        parse(text.encode("latin-1"))
    assert where in str(refused.value)
    assert "tokenA" not in str(refused.value)


def test_the_example_that_ships_is_valid() -> None:
    found = parse((Path(__file__).parents[2] / "examples" / "config" / "notifications.toml").read_bytes())
    assert list(found.target) == ["console", "team", "shop-mail"]
    assert load(Path("/nowhere")).target == {}


def test_a_url_comes_from_its_place_at_the_moment_of_sending(tmp_path: Path) -> None:
    by_file = Target(url_file="chat")
    with pytest.raises(NoURL, match="chat cannot be read"):
        url_of(by_file, tmp_path, {})
    (tmp_path / "chat").write_text(" json://host/path \n")
    assert url_of(by_file, tmp_path, {}) == "json://host/path"
    (tmp_path / "chat").write_text("one\ntwo\n")
    with pytest.raises(NoURL, match="more than one line"):
        url_of(by_file, tmp_path, {})
    assert url_of(Target(url_env="X"), tmp_path, {"X": "json://a"}) == "json://a"
    assert url_of(Target(url="log://"), tmp_path, {}) == "log://"


def test_a_title_from_outside_mentions_nobody_and_fits_a_line() -> None:
    told = harmless("@everyone <!channel>\nread\u202e this\x1b[31m " + "x" * 500, 60)
    assert "@everyone" not in told
    assert "<" not in told
    assert told.isprintable() or "\u200b" in told
    assert len(told) == 60


# --------------------------------------------------------------------------------------------- as a process


@pytest.mark.slow
def test_the_dispatcher_tells_of_a_gate_and_a_service_that_hangs_delays_nothing(tmp_path: Path, chat: Chat) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "notifications.toml").write_text(ONE)
    chat.hang = True
    with dispatcher(tmp_path, CHAT_URL=chat.url) as started:
        store = Workspace.open(settings_for(tmp_path)).store
        Walk(store, "T-1").create()
        store.commit("T-1", Dispatch("d-1", "fake", "fake"), actor="cli")

        def is_at_gate(task_id: str = "T-1") -> bool:
            store.refresh()
            return store.view.entries[task_id].stage == "needs_review"

        until(is_at_gate)
        until(lambda: chat.asked == 1)
        Walk(store, "T-2").create()
        store.commit("T-2", Dispatch("d-2", "fake", "fake"), actor="cli")
        until(lambda: is_at_gate("T-2"))  # while the first notification still hangs
        chat.hang = False
        chat.released.set()
        until(lambda: {"Needs review: T-1", "Needs review: T-2"} <= set(chat.titles))
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
    sent = [event for event in store.events() if event.type == "notification_sent"]
    assert {event.subject for event in sent} == {"T-1", "T-2"}
    assert b"sesame" not in (tmp_path / "dispatcher.log").read_bytes()
    store.close()
