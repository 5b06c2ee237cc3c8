// The projects: how each stands, why, and the policy that holds at its gate.

import { get } from "./ask.js";
import { clear, h, pieces, said, span, tick, when } from "./dom.js";
import { STATUSES, counted, kindWord } from "./words.js";

const SOON_MS = 400; // a burst of changes is one read
const EVERY_MS = 20_000; // deadlines pass without an event
const LIGHTS = { green: "In order", yellow: "Needs a look", red: "Broken" };
const OUTCOMES = { running: "running", at_the_gate: "waits at the gate", approved: "approved", rejected: "rejected", failed: "failed" };

export class ProjectsView {
  title = "Projects";

  constructor() {
    this.summary = h("p", { class: "count", role: "status" });
    this.cards = h("div", { class: "projects" });
    this.root = h("section", { class: "view projectsview" }, h("div", { class: "bar" }, h("h1", {}, "Projects"), h("div", { class: "grow" }), this.summary), this.cards);
    this._open = new Set();
    setInterval(() => this.root.isConnected && tick(this.root), 5_000);
    setInterval(() => this.root.isConnected && !document.hidden && this._read(), EVERY_MS);
  }

  show(place) {
    place.append(this.root);
    if (!this.page) clear(this.cards).append(h("p", { class: "empty" }, "Reading the projects…"));
    this._read();
  }

  hide() {
    this.root.remove();
  }

  reset() {
    if (this.root.isConnected) this._read();
  }

  apply(event) {
    if (!this.root.isConnected || event.type === "heartbeat") return;
    clearTimeout(this._soon);
    this._soon = setTimeout(() => this._read(), SOON_MS);
  }

  async _read() {
    let page;
    try {
      page = await get("/api/projects");
    } catch (error) {
      clear(this.cards).append(h("p", { class: "empty" }, pieces(error.detail ?? String(error))));
      this._drawn = null;
      return;
    }
    const digest = JSON.stringify(page);
    if (digest === this._drawn) return;
    this._drawn = digest;
    this.page = page;
    this._draw();
  }

  _draw() {
    const { page } = this;
    const focused = document.activeElement?.closest?.("[data-project]")?.dataset.project;
    const bad = page.projects.filter((project) => project.state !== "green").length;
    this.summary.textContent = page.problem ? "" : `${counted(page.projects.length, "project")}${bad ? ` · ${bad} to look at` : ""}`;
    clear(this.cards).append(
      page.problem ? problemView(page.problem) : "",
      ...page.projects.map((project) => this._card(project)),
      !page.problem && !page.projects.length ? nothing() : "",
      page.misnamed.length ? misnamedView(page.misnamed) : "",
      page.others.total && page.projects.length ? h("p", { class: "faint others" }, `${counted(page.others.total, "task")} of no project.`) : "",
    );
    if (focused) [...this.cards.querySelectorAll("[data-project]")].find((card) => card.dataset.project === focused)?.querySelector("summary")?.focus({ preventScroll: true });
  }

  _card(project) {
    const { counts } = project;
    const policy = h("details", { class: "fold" }, h("summary", {}, h("span", { class: "h3" }, "Policy"), h("span", { class: "faint" }, said(inShort(project.policy)))), policyView(project));
    policy.open = this._open.has(project.name);
    policy.addEventListener("toggle", () => (policy.open ? this._open.add(project.name) : this._open.delete(project.name)));
    return h(
      "article",
      { class: `panel project is-${project.state}`, "data-project": project.name },
      h("h2", {}, h("span", { class: `state is-${project.state}` }, h("i", { "aria-hidden": "true" }), LIGHTS[project.state]), said(project.title || project.name), project.title && h("span", { class: "faint mono" }, said(project.name))),
      project.reasons.length > 0 && h("ul", { class: "reasons" }, project.reasons.map((reason) => h("li", { class: `r-${reason.code}` }, taskLink(reason.task_id), " ", said(reason.detail)))),
      h("p", { class: "facts" }, Object.entries(STATUSES).map(([status, word]) => h("span", {}, h("b", {}, counts[status]), " ", word.toLowerCase())), counts.locked > 0 && h("span", { class: "lock" }, `${counts.locked} locked`)),
      h(
        "dl",
        { class: "standing" },
        fact("Last run", project.last_run ? runView(project.last_run) : h("span", { class: "faint" }, "none yet")),
        fact("Next run", project.next_run ? [when(project.next_run.at), " ", h("span", { class: "faint" }, said(project.next_run.flow))] : h("span", { class: "faint" }, "none known")),
        fact("Last error", project.last_error ? errorView(project.last_error) : h("span", { class: "faint" }, "none")),
        fact("Agents", [said(project.executor, "mono"), h("span", { class: "faint" }, " reviewed by "), said(project.reviewer, "mono")]),
      ),
      policy,
    );
  }

  key() {
    return false;
  }
}

const taskLink = (taskId) => h("a", { href: `#/tasks/${encodeURIComponent(taskId)}` }, said(taskId, "mono"));
const fact = (word, value) => h("div", {}, h("dt", {}, word), h("dd", {}, value));

function runView(run) {
  return [taskLink(run.task_id), h("span", { class: run.outcome === "failed" ? "minus" : "" }, ` ${OUTCOMES[run.outcome]}`), run.reason && [": ", said(run.reason)], " ", h("span", { class: "faint" }, `attempt ${run.attempt}, `, when(run.at))];
}

function errorView(error) {
  return [taskLink(error.task_id), ` ${kindWord(error.type).toLowerCase()}`, error.detail && [": ", said(error.detail.slice(0, 300))], " ", h("span", { class: "faint" }, when(error.at), ` · #${error.seq}`)];
}

/** The policy in a few words: what a person has to know first. */
function inShort(policy) {
  const parts = [policy.human_gate ? `${policy.quorum} of ${policy.approvers.length ? counted(policy.approvers.length, "approver") : "any approvers"}` : "no person for low risk"];
  if (policy.four_eyes) parts.push("four eyes");
  if (policy.decision_deadline_s) parts.push(`decided within ${span(policy.decision_deadline_s)}`);
  return parts.join(", ");
}

function policyView({ policy, scope, repositories, auto_dispatch: rules }) {
  const yes = (value) => (value ? "yes" : "no");
  const list = (names) => (names.length ? names.map((name) => h("code", {}, said(name))) : h("span", { class: "faint" }, "any"));
  const limit = (seconds) => (seconds === null ? "none" : span(seconds));
  return h(
    "dl",
    { class: "standing policy" },
    fact("Person at the gate", policy.human_gate ? "always" : ["not for changes that touch only ", list(policy.low_risk)]),
    fact("Approvals", `${policy.quorum}, of one and the same digest`),
    fact("Approvers", list(policy.approvers)),
    fact("Four eyes", yes(policy.four_eyes)),
    fact("Another model family reviews", yes(policy.distinct_model_family)),
    fact("Run or test needed", yes(policy.require_run)),
    fact("Attempts", policy.max_attempts === null ? "until locked" : `at most ${policy.max_attempts}`),
    fact("Dispatched again by itself", policy.auto_redispatch === null ? "as the server says" : yes(policy.auto_redispatch)),
    fact("Decision due within", [limit(policy.decision_deadline_s), policy.decision_deadline_s !== null && `, then ${policy.deadline_outcome.replaceAll("_", " ")}`, policy.reminders_s.length > 0 && `; reminded ${policy.reminders_s.map((s) => span(s)).join(", ")} before`]),
    fact("Scope", list(scope)),
    fact("Repositories", repositories.length ? list(repositories) : h("span", { class: "faint" }, "none named")),
    fact("Starts by itself", rules.length ? rules.map((rule) => h("code", {}, said(ruleText(rule)))) : "never"),
  );
}

const ruleText = ({ source, repositories, labels, chats, products }) => [source, ...repositories, ...labels.map((label) => `label ${label}`), ...chats.map((chat) => `chat ${chat}`), ...products].join(" · ");

function problemView(problem) {
  return h("div", { class: "panel project is-red", role: "alert" }, h("h2", {}, h("span", { class: "state is-red" }, h("i", { "aria-hidden": "true" }), "Broken"), "The projects cannot be used"), h("p", {}, said(problem)), h("p", { class: "faint" }, "Nothing of the file holds until it is mended, and what depends on it is refused."));
}

function misnamedView(ids) {
  return h("div", { class: "panel project is-yellow" }, h("h2", {}, h("span", { class: "state is-yellow" }, h("i", { "aria-hidden": "true" }), "Needs a look"), "Tasks that name a project that there is not"), h("p", { class: "links" }, ids.map((id) => taskLink(id))));
}

function nothing() {
  return h("div", { class: "empty" }, h("p", {}, "There are no projects yet: they stand in ", h("code", {}, "config/projects.toml"), "."));
}
