// One task: what was asked, every attempt with its evidence, the decision, and the timeline from the log.

import { Problem, events, get, send, taskPath } from "./ask.js";
import { clear, clock, copy, exact, h, pieces, prose, said, tick, when } from "./dom.js";
import { diffView, sideBySide } from "./diff.js";
import { openGate } from "./gate.js";
import { flash } from "./list.js";
import { stageOf } from "./tasks.js";
import { traceView } from "./trace.js";
import { badge, counted, kindWord, saying, toneOf } from "./words.js";

const MAX_ROWS = 300; // operations drawn before somebody asks for the rest

export class TaskView {
  constructor(tasks, session, listAddress) {
    this.tasks = tasks;
    this.listAddress = listAddress;
    this.session = session;
    this.root = h("section", { class: "view task" });
    session.on(() => this.task && this._draw());
    setInterval(() => this.root.isConnected && tick(this.root), 5_000);
  }

  get title() {
    return this.taskId ?? "Task";
  }

  // ------------------------------------------------------------------------------------------- showing

  show(place, taskId) {
    if (taskId !== this.taskId) {
      this.taskId = taskId;
      this.task = null;
      this.problem = null;
      this.trace = null;
      this.timeline = [];
      this.timelineComplete = false;
      this._settled = false;
      this._sections = new Map();
      this._open = new Map();
      clear(this.root).append(h("p", { class: "empty" }, "Reading the task…"));
    }
    place.append(this.root);
    this.reload();
  }

  hide() {
    this.root.remove();
  }

  /** Read the task and its events anew; what did not change on the page stays as it is. */
  async reload() {
    const { taskId } = this;
    try {
      const task = await get(taskPath(taskId));
      if (taskId !== this.taskId) return;
      this.task = task;
      this.problem = null;
      this.tasks.take(task);
      this._draw();
      await this._readTrace(taskId);
      if (!this.timelineComplete) await this._readTimeline(taskId);
    } catch (error) {
      if (taskId !== this.taskId) return;
      this.problem = error;
      if (!this.task || error.status === 404) this._drawProblem(error);
    }
  }

  /** Only what was delivered can be traced. */
  async _readTrace(taskId) {
    if (!this.task.attempts.some((attempt) => attempt.result)) return;
    try {
      const trace = await get(`${taskPath(taskId)}/trace`);
      if (taskId !== this.taskId) return;
      this.trace = trace;
      this._draw();
    } catch {
      // The rest of the page is there; the trace is read again with the next change.
    }
  }

  async _readTimeline(taskId) {
    let found = await collected({ subject: taskId, since: this.task.created_at });
    // Who wrote the file set `created_at`: where the beginning is missing, it was set too late.
    if (!found.some(begins)) found = await collected({ subject: taskId });
    if (taskId !== this.taskId) return;
    const seen = new Set(found.map((event) => event.seq));
    for (const event of this.timeline) if (!seen.has(event.seq)) found.push(event);
    this.timeline = found.sort((a, b) => a.seq - b.seq);
    this.timelineComplete = true;
    this._draw();
  }

  /** An event of the log; those of other tasks are none of this page's business. */
  apply(event) {
    if (event.subject !== this.taskId || !this.root.isConnected) return;
    if (!this.timeline.some((known) => known.seq === event.seq)) this.timeline.push(event);
    if (event.data.document_sha256) this._readSoon();
    else this._draw();
  }

  _readSoon() {
    if (this._reading) {
      this._again = true;
      return;
    }
    this._reading = this.reload().finally(() => {
      this._reading = null;
      if (this._again) {
        this._again = false;
        this._readSoon();
      }
    });
  }

  reset() {
    this.timelineComplete = false;
    this.timeline = [];
    if (this.root.isConnected) this.reload();
  }

  _drawProblem(error) {
    this._sections = new Map();
    const text = error.status === 404 ? `There is no task ${this.taskId}.` : error.detail ?? String(error);
    clear(this.root).append(
      h("div", { class: "empty" }, h("p", {}, pieces(text)), h("p", {}, h("a", { href: "#/" }, "All tasks"))),
    );
  }

  // ------------------------------------------------------------------------------------------- drawing

  /** Bring the page up to date. A section whose content is the same is not touched: focus and scroll stay. */
  _draw() {
    const { task } = this;
    if (!task) return;
    if (!this._sections.size) {
      this._main = h("div", { class: "main" });
      this._aside = h("aside", { class: "aside", "aria-label": "Gate and timeline" });
      clear(this.root).append(h("div", { class: "heading" }), h("div", { class: "columns" }, this._main, this._aside));
    }
    const heading = this.root.firstChild;
    const facts = [task.title, task.status, task.locked, stageOf(task.attempts.at(-1)), task.attempts.length];
    this._section(heading, "heading", [facts, task.updated_at, task.origin, task.source], () => this._heading());
    this._section(this._aside, "gate", [facts, task.review_digest, this.session.sub, this.session.roles, last(task)?.verdict, last(task)?.approvals, last(task)?.decision, this._landing()?.seq], () => this._gate());
    this._section(this._aside, "timeline", [this.timeline.length, this.timelineComplete], () => this._timelineView());
    this._section(this._main, "request", [task.request_text, task.build, task.metadata], () => this._request());
    this._section(this._main, "criteria", [task.acceptance_criteria, task.scope, last(task)?.result, last(task)?.verdict], () => this._criteria());
    if (this.trace) this._section(this._main, "trace", [this.trace.attempts], () => this._traced());
    for (const attempt of [...task.attempts].reverse()) {
      const mismatches = this._mismatches(attempt);
      const current = attempt === last(task);
      this._section(this._main, `attempt ${attempt.attempt}`, [attempt, mismatches.length, current], () => this._attempt(attempt, current, mismatches));
    }
    this._section(this._main, "raw", [task.revision, task.review_digest], () => this._raw());
    this._order();
    this._settled = this.timelineComplete;
  }

  _section(place, name, content, build) {
    const digest = JSON.stringify(content);
    const known = this._sections.get(name);
    if (known && known.digest === digest) return;
    const element = build();
    element.dataset.section = name;
    if (known) {
      const focused = known.element.contains(document.activeElement) && document.activeElement.dataset.keep;
      known.element.replaceWith(element);
      if (focused) element.querySelector(`[data-keep="${focused}"]`)?.focus({ preventScroll: true });
      if (name !== "heading" && this._settled) flash(element);
    } else {
      place.append(element);
    }
    this._sections.set(name, { digest, element });
  }

  /** Newest attempt first, raw JSON last. */
  _order() {
    const names = ["request", "criteria", ...(this._sections.has("trace") ? ["trace"] : []), ...this.task.attempts.map((a) => `attempt ${a.attempt}`).reverse(), "raw"];
    for (const [name, { element }] of this._sections) {
      if (name.startsWith("attempt ") && !names.includes(name)) {
        element.remove();
        this._sections.delete(name);
      }
    }
    let place = this._main.firstChild;
    for (const name of names) {
      const { element } = this._sections.get(name);
      if (element === place) place = place.nextSibling;
      else this._main.insertBefore(element, place);
    }
  }

  /** A fold that remembers whether it was opened or closed by hand. */
  _fold(name, summary, body, open, className = "") {
    const fold = h("details", { class: `fold ${className}` }, h("summary", { "data-keep": name }, summary));
    const fill = () => fold.children.length < 2 && fold.append(typeof body === "function" ? body() : body);
    fold.open = this._open.get(name) ?? open;
    if (fold.open) fill();
    fold.addEventListener("toggle", () => {
      this._open.set(name, fold.open);
      if (fold.open) fill();
    });
    return fold;
  }

  _heading() {
    const { task } = this;
    const stage = stageOf(last(task));
    const url = typeof task.origin?.url === "string" && /^https:\/\//.test(task.origin.url) ? task.origin.url : null;
    return h(
      "header",
      {},
      h("p", { class: "crumbs" }, h("a", { href: this.listAddress() }, "Tasks"), h("span", { "aria-hidden": "true" }, " / "), said(task.task_id, "mono")),
      h("h1", {}, said(task.title || "untitled")),
      h(
        "p",
        { class: "facts" },
        badge(stage),
        task.locked && h("span", { class: "lock" }, "locked"),
        h("span", {}, task.attempts.length ? `attempt ${last(task).attempt}` : "no attempt yet"),
        h("span", {}, "from ", url ? h("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, task.source) : task.source),
        h("span", {}, when(task.created_at, "created ")),
        h("span", {}, when(task.updated_at, "changed ")),
        h("span", { class: "faint" }, `revision ${task.revision}`),
        h("span", { class: "faint mono" }, said(task.correlation_id)),
      ),
    );
  }

  _request() {
    const { task } = this;
    const extra = [];
    if (task.build) extra.push(this._fold("build", "Build, as it was received", () => json(task.build), false));
    if (Object.keys(task.metadata ?? {}).length) extra.push(this._fold("metadata", "Metadata", () => json(task.metadata), false));
    if (Object.keys(task.origin ?? {}).length) extra.push(this._fold("origin", "Origin", () => json(task.origin), false));
    const long = (task.request_text ?? "").length > 3000 || (task.request_text ?? "").split("\n").length > 30;
    const text = prose(task.request_text, long && !this._open.get("whole request") ? "cut" : "");
    const more =
      long &&
      !this._open.get("whole request") &&
      h("button", { type: "button", class: "more", onclick: () => (this._open.set("whole request", true), text.classList.remove("cut"), more.remove()) }, "Show all of it");
    return h("section", { class: "panel" }, h("h2", {}, "Request"), text, more, extra);
  }

  // -------------------------------------------------------------------------------------------- criteria

  _criteria() {
    const { task } = this;
    const attempt = last(task);
    return h(
      "section",
      { class: "panel" },
      h("h2", {}, "Acceptance criteria"),
      task.acceptance_criteria.length
        ? h("ol", { class: "criteria" }, task.acceptance_criteria.map((criterion) => this._criterion(criterion, attempt)))
        : h("p", { class: "faint" }, "None: it cannot be dispatched before it has some."),
      h("h3", {}, "Scope"),
      task.scope.length
        ? h("p", { class: "globs" }, task.scope.map((glob) => h("code", {}, said(glob))))
        : h("p", { class: "faint" }, "Not limited."),
    );
  }

  _traced() {
    const fold = (name, head, body, open) => this._fold(name, head, body, open);
    return traceView(this.trace, (text, anchor, className) => this._jump(text, anchor, className), fold);
  }

  _criterion(criterion, attempt) {
    const issues = (attempt?.verdict?.issues ?? []).filter((issue) => issue.criterion_ref === criterion.id);
    const operations = (attempt?.result?.work_log ?? []).filter((op) => op.criterion_refs.includes(criterion.id));
    const number = attempt?.attempt;
    const links = [
      ...issues.map((issue) => this._jump(issue.issue_id, `${number} issue ${issue.issue_id}`, `sev-${issue.severity}`)),
      ...operations.slice(0, 12).map((op) => this._jump(op.op_id, `${number} op ${op.op_id}`)),
    ];
    if (operations.length > 12) links.push(h("span", { class: "faint" }, `and ${operations.length - 12} more`));
    return h(
      "li",
      { "data-anchor": `criterion ${criterion.id}`, tabindex: "-1" },
      h("span", { class: "ref" }, said(criterion.id, "mono")),
      h("div", {}, prose(criterion.text), links.length > 0 && h("p", { class: "links" }, links)),
    );
  }

  /** A link to a place on this page, by its anchor. */
  _jump(text, anchor, className = "") {
    return h("button", { type: "button", class: `jump ${className}`, onclick: () => this.jumpTo(anchor) }, said(text, "mono"));
  }

  /** What is not drawn yet (in folds that were never opened, behind "Show more") is drawn on the way. */
  async jumpTo(anchor) {
    const find = (name) => [...this.root.querySelectorAll("[data-anchor]")].find((element) => element.dataset.anchor === name);
    for (let round = 0; round < 20 && !find(anchor); round++) {
      this._openTowards(anchor, find);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    const target = find(anchor);
    for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    this._arrive(target);
  }

  _openTowards(anchor, find) {
    const [number, kind, place] = anchor.split(" ");
    const section = this._sections.get(`attempt ${number}`)?.element;
    if (!section) return;
    if (section.tagName === "DETAILS") section.open = true;
    section.querySelectorAll("details.fold").forEach((fold) => (fold.open = true));
    section.querySelectorAll(".wide > button.more").forEach((button) => button.click());
    const file = kind === "hunk" && find(`${number} file ${place.split(".")[0]}`);
    if (!file) return;
    file.open = true;
    file.querySelector("button.more")?.click();
  }

  _arrive(target) {
    if (!target) return;
    target.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    target.focus({ preventScroll: true });
    flash(target);
  }

  // -------------------------------------------------------------------------------------------- attempts

  _attempt(attempt, current, mismatches) {
    const { dispatch } = attempt;
    const stage = stageOf(attempt);
    const summary = [
      h("span", { class: "attemptno" }, attempt.dispatch ? `Attempt ${attempt.attempt}` : "Declined before any dispatch"),
      badge(stage),
      dispatch && h("span", { class: "faint" }, "by ", said(dispatch.executor), attempt.ack && [" (", said(attempt.ack.by), ")"]),
      dispatch && when(dispatch.at),
    ];
    const body = () => [
      dispatch && this._steps(attempt),
      attempt.witnessed === false &&
        h("p", { class: "notice warn" }, "This attempt arrived inside a file; the log did not see it happen. It can be approved only where the server trusts such history."),
      attempt.ended && h("p", { class: "notice warn" }, "Stopped: ", said(attempt.ended.reason), ", ", when(attempt.ended.at), "."),
      (attempt.approvals ?? []).map((approval) => h("p", { class: "notice" }, "Approval by ", said(approval.by), ", ", when(approval.at), approval.reason && [": ", said(approval.reason)])),
      attempt.decision && this._decision(attempt),
      attempt.unlocked && h("p", { class: "notice" }, "Unlocked by ", said(attempt.unlocked.by), ", ", when(attempt.unlocked.at), ": ", said(attempt.unlocked.reason)),
      attempt.verdict && this._verdict(attempt),
      attempt.result && this._result(attempt, current),
      dispatch && h("section", { class: "part" }, this._told(attempt, mismatches)),
    ];
    const fold = this._fold(`attempt ${attempt.attempt}`, summary, () => h("div", { class: "body" }, body()), current, "panel attempt");
    return fold;
  }

  _steps(attempt) {
    const { dispatch, ack, result, verdict, decision } = attempt;
    const done = [
      ["Dispatched", dispatch?.at],
      ["Acknowledged", ack?.at],
      ["Delivered", result?.at],
      ["Reviewed", verdict?.at],
      ["Decided", decision?.at],
    ];
    let before = null;
    return h(
      "ol",
      { class: "steps" },
      done.map(([word, at]) => {
        const took = at && before ? `+${duration(before, at)}` : at ? clock(at) : "";
        before = at ?? before;
        return h("li", { class: at ? "done" : "", title: at ? exact(at) : null }, word, h("span", { class: "faint" }, took || "–"));
      }),
    );
  }

  /** What the executor was told, beside what it repeated. */
  _told(attempt, mismatches) {
    const { dispatch, ack } = attempt;
    const pairs = [
      ...dispatch.acceptance_criteria.map((criterion, index) => {
        const echo = ack?.echo[index];
        return [criterion.id, criterion.text ?? "", echo ? [echo.criterion_ref, echo.text ?? ""] : null];
      }),
    ];
    const differs = ack && (pairs.some(([id, text, echo]) => !echo || echo[0] !== id || echo[1] !== text) || !same(dispatch.scope, ack.scope));
    const state = ack
      ? differs
        ? h("span", { class: "tag bad" }, "differs")
        : h("span", { class: "tag good" }, "repeated word for word")
      : h("span", { class: "tag" }, attempt.ended ? "never acknowledged" : "no ACK yet");
    const heading = [h("span", { class: "h3" }, "Told and echoed"), state, mismatches.length > 0 && h("span", { class: "tag bad" }, `${mismatches.length} refused`)];
    const rows = pairs.map(([id, text, echo]) => {
      const [told, repeated] = sideBySide(text, echo ? echo[1] : text);
      return h(
        "tr",
        { class: echo && echo[1] !== text ? "differs" : "" },
        h("th", { scope: "row" }, said(id, "mono")),
        h("td", {}, h("div", { class: "prose", dir: "auto" }, told)),
        h("td", {}, echo ? h("div", { class: "prose", dir: "auto" }, repeated) : h("span", { class: "faint" }, "–")),
      );
    });
    const scope = h(
      "tr",
      { class: ack && !same(dispatch.scope, ack.scope) ? "differs" : "" },
      h("th", { scope: "row" }, "Scope"),
      h("td", {}, globs(dispatch.scope)),
      h("td", {}, ack ? globs(ack.scope) : h("span", { class: "faint" }, "–")),
    );
    // Where the issues come from: the last decided attempt before this one; others may have ended in between.
    const before = this.task.attempts.findLast((one) => one.attempt < attempt.attempt && one.decision);
    const judged = before?.attempt;
    const body = () =>
      h(
        "div",
        {},
        mismatches.map((event) => mismatchView(event)),
        h(
          "div",
          { class: "wide" },
          h(
            "table",
            { class: "echo" },
            h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col" }, "Told"), h("th", { scope: "col" }, "Echoed", ack && [" by ", said(ack.by)]))),
            h("tbody", {}, rows, scope),
          ),
        ),
        dispatch.issues.length > 0 && [
          h("h4", {}, `Forwarded from the ${before?.unlanded ? "attempt that could not land" : "rejected attempt"}, verbatim (${dispatch.issues.length})`),
          h("ul", { class: "issues" }, dispatch.issues.map((issue) => this._issue(issue, judged, false))),
        ],
        h("p", { class: "faint small" }, said(dispatch.dispatch_id, "mono"), ` · by `, said(dispatch.by), ` · ACK due ${clock(dispatch.ack_deadline)}`),
      );
    return this._fold(`${attempt.attempt} told`, heading, body, Boolean(differs || mismatches.length || dispatch.issues.length || !attempt.result));
  }

  _mismatches(attempt) {
    const id = attempt.dispatch?.dispatch_id;
    return id ? this.timeline.filter((event) => event.type === "ack_mismatch" && event.data.dispatch_id === id) : [];
  }

  _result(attempt, current) {
    const { result } = attempt;
    const n = attempt.attempt;
    const refs = (ids) => ids.map((id) => this._jump(id, `criterion ${id}`));
    const row = (op) =>
      h(
        "tr",
        { "data-anchor": `${n} op ${op.op_id}`, tabindex: "-1" },
        h("th", { scope: "row" }, said(op.op_id, "mono")),
        h("td", {}, h("span", { class: `act a-${op.action}` }, op.action)),
        h("td", { class: "target" }, said(op.target, "mono"), op.detail && detailView(op.detail)),
        h("td", { class: "num" }, op.exit_code === null ? "" : h("span", { class: op.exit_code === 0 ? "plus" : "minus" }, `exit ${op.exit_code}`)),
        h("td", { class: "links" }, refs(op.criterion_refs)),
        h("td", { class: "faint num", title: exact(op.at) }, clock(op.at)),
      );
    const log = () =>
      h(
        "div",
        { class: "wide" },
        h(
          "table",
          { class: "worklog" },
          h("thead", {}, h("tr", {}, ["Op", "Action", "Target", "Exit", "Criteria", "At"].map((word) => h("th", { scope: "col" }, word)))),
          h("tbody", {}, result.work_log.slice(0, MAX_ROWS).map(row)),
        ),
        result.work_log.length > MAX_ROWS && rest(result.work_log, row),
      );
    const snapshot = result.diff_snapshot;
    return h(
      "section",
      { class: "part" },
      h("h3", {}, "Result", h("span", { class: `tag ${result.outcome === "completed" ? "good" : "bad"}` }, result.outcome), h("span", { class: "by" }, "by ", said(result.by), ", ", when(result.at))),
      result.summary && prose(result.summary),
      result.observed && this._observed(result.observed, n),
      this._fold(`${n} log`, [h("span", { class: "h3" }, "Work log"), h("span", { class: "faint" }, counted(result.work_log.length, "operation"))], log, true),
      snapshot
        ? this._fold(
            `${n} diff`,
            [h("span", { class: "h3" }, "Diff"), h("span", { class: "faint mono" }, said(`base ${snapshot.base.slice(0, 12)} · sha256 ${snapshot.sha256.slice(0, 12)}`))],
            () => diffView(snapshot.text ?? "", n),
            current,
          )
        : h("p", { class: "faint" }, "No diff was delivered."),
    );
  }

  /** What was seen from outside while the agent worked: evidence, not the agent's word. */
  _observed(seen, n) {
    const { isolation } = seen;
    const checks = seen.checks ?? [];
    const commands = seen.commands ?? [];
    const failed = checks.filter((check) => check.exit_code !== 0).length;
    const row = (run) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, run.criterion_ref ? ["check ", this._jump(run.criterion_ref, `criterion ${run.criterion_ref}`)] : "command"),
        h("td", { class: "target" }, said(run.command.join(" "), "mono"), run.tail && detailView(run.tail)),
        h("td", { class: "num" }, h("span", { class: run.exit_code === 0 ? "plus" : "minus" }, run.exit_code === null ? `stopped: ${run.stopped}` : `exit ${run.exit_code}`)),
        h("td", { class: "num faint" }, `${run.duration_ms} ms`),
      );
    const body = () =>
      h(
        "div",
        { class: "wide" },
        h("p", { class: "faint small" }, "Shut in by ", said((isolation.namespaces ?? []).join(", ") || "no namespaces"), `; network: ${isolation.network ? "yes" : "no"}; base `, said(seen.base.slice(0, 12), "mono")),
        lacking(isolation.missing ?? []),
        seen.commands_by === "agent" && h("p", { class: "minus" }, "The agent ran its commands itself: nobody saw them."),
        checks.length + commands.length > 0 &&
          h(
            "table",
            { class: "worklog" },
            h("thead", {}, h("tr", {}, ["Evidence", "Command", "Exit", "Took"].map((word) => h("th", { scope: "col" }, word)))),
            h("tbody", {}, [...checks, ...commands].slice(0, MAX_ROWS).map(row)),
          ),
      );
    const told = checks.length ? `${counted(checks.length, "check")}, ${failed} failed` : counted(commands.length, "command");
    return this._fold(`${n} seen`, [h("span", { class: "h3" }, "Seen from outside"), h("span", { class: failed ? "minus" : "faint" }, told)], body, checks.length > 0);
  }

  _verdict(attempt) {
    const { verdict } = attempt;
    return h(
      "section",
      { class: "part" },
      h("h3", {}, "Verdict", h("span", { class: `tag ${verdict.decision === "approve" ? "good" : "bad"}` }, verdict.decision), h("span", { class: "by" }, "by ", said(verdict.by), ", ", when(verdict.at))),
      verdict.summary && prose(verdict.summary),
      verdict.issues.length > 0 && h("ul", { class: "issues" }, verdict.issues.map((issue) => this._issue(issue, attempt.attempt, true))),
    );
  }

  _issue(issue, number, anchored) {
    return h(
      "li",
      { class: `issue sev-${issue.severity}`, "data-anchor": anchored ? `${number} issue ${issue.issue_id}` : null, tabindex: anchored ? "-1" : null },
      h(
        "p",
        { class: "links" },
        h("span", { class: `sev sev-${issue.severity}` }, issue.severity),
        said(issue.issue_id, "mono"),
        h("span", { class: "faint" }, "on"),
        this._jump(issue.criterion_ref, `criterion ${issue.criterion_ref}`),
        issue.op_refs.length > 0 && h("span", { class: "faint" }, "at"),
        issue.op_refs.map((id) => this._jump(id, `${number} op ${id}`)),
      ),
      prose(issue.text),
    );
  }

  _decision(attempt) {
    const { decision } = attempt;
    return h(
      "section",
      { class: "part" },
      h("h3", {}, "Decision", h("span", { class: `tag ${decision.decision === "approved" ? "good" : "bad"}` }, decision.decision), h("span", { class: "by" }, "by ", said(decision.by), ", ", when(decision.at))),
      decision.reason && prose(decision.reason),
      decision.issues.length > 0 && h("ul", { class: "issues" }, decision.issues.map((issue) => this._issue(issue, attempt.attempt, true))),
      decision.review_digest && h("p", { class: "faint small" }, "What was decided on: ", digestView(decision.review_digest)),
      attempt.unlanded && this._unlanded(attempt),
    );
  }

  /** What the landing of an approved change said: the next attempt's issues. */
  _unlanded({ attempt, unlanded }) {
    return [
      h("h4", {}, "It cannot stand on ", said(unlanded.branch, "mono"), ` (${unlanded.reason.replaceAll("_", " ")}), `, when(unlanded.at)),
      h("ul", { class: "issues" }, unlanded.issues.map((issue) => this._issue(issue, attempt, true))),
    ];
  }

  // ------------------------------------------------------------------------------------------------ gate

  _gate() {
    const { task, session } = this;
    const attempt = last(task);
    const verdict = attempt?.verdict;
    const moves = this.moves();
    const children = [h("h2", {}, "Gate")];
    if (task.status === "needs_review") {
      const issues = verdict.issues.length;
      children.push(
        h("p", {}, `Attempt ${attempt.attempt} waits for a person. The reviewer says `, h("strong", { class: verdict.decision === "approve" ? "plus" : "minus" }, verdict.decision), issues ? `, with ${issues} ${issues === 1 ? "issue" : "issues"}.` : ", without issues."),
        h("p", { class: "faint small" }, "What you decide on: ", digestView(task.review_digest)),
      );
      children.push(approvalsView(attempt, task.review_digest));
    } else if (attempt?.decision) {
      const { decision } = attempt;
      children.push(
        h("p", {}, h("strong", { class: decision.decision === "approved" ? "plus" : "minus" }, decision.decision === "approved" ? "Approved" : "Rejected"), " by ", said(decision.by), ", ", when(decision.at), "."),
        decision.reason && h("blockquote", {}, prose(decision.reason)),
        decision.review_digest && h("p", { class: "faint small" }, "On ", digestView(decision.review_digest)),
        !attempt.unlanded && landingView(this._landing()),
      );
    } else {
      children.push(h("p", { class: "faint" }, "Nothing to decide yet: no verdict."));
    }
    if (attempt?.unlanded)
      children.push(
        h(
          "p",
          { class: "notice warn" },
          "It could not land on ",
          said(attempt.unlanded.branch, "mono"),
          ": it needs a new attempt, which begins there and gets what the landing said. ",
          h("code", {}, `kircerta dispatch ${task.task_id}`),
          " begins one, where the dispatcher does not.",
        ),
      );
    if (task.locked) children.push(h("p", { class: "notice warn" }, "Locked after too many rejections in a row: it is dispatched again only once a person unlocks it."));
    if (moves.length && !session.may("approver")) {
      children.push(
        session.sub
          ? h("p", { class: "faint" }, said(session.sub), " is no approver.")
          : h("button", { type: "button", class: "primary", "data-keep": "sign in", onclick: () => session.ask() }, "Sign in to decide"),
      );
    } else if (moves.length) {
      const button = (move, word, key, className) =>
        h("button", { type: "button", class: className, "data-keep": move, "aria-keyshortcuts": key, onclick: () => this.decide(move) }, word, h("kbd", { "aria-hidden": "true" }, key));
      children.push(
        h(
          "div",
          { class: "buttons" },
          moves.includes("approve") && button("approve", "Approve…", "a", "good"),
          moves.includes("reject") && button("reject", task.status === "pending" ? "Decline…" : "Reject…", "r", "bad"),
          moves.includes("unlock") && button("unlock", "Unlock…", "u", "primary"),
        ),
      );
    }
    return h("section", { class: "panel gate" }, children);
  }

  /** What became of the approved change last: it landed, or it did not. */
  _landing() {
    const { attempt } = last(this.task) ?? {};
    return this.timeline.findLast((event) => /^(task_landed|landing_refused)$/.test(event.type) && event.data.attempt === attempt);
  }

  /** The moves that the task's state allows a person now. */
  moves() {
    const { task } = this;
    if (!task) return [];
    if (task.status === "needs_review") return ["approve", "reject"];
    if (task.status === "pending") return ["reject"];
    return task.locked ? ["unlock"] : [];
  }

  decide(move) {
    if (!this.moves().includes(move)) return;
    if (!this.session.may("approver")) {
      this.session.ask();
      return;
    }
    openGate(move, this.task, {
      read: () => get(taskPath(this.taskId)),
      send: (body, key) => send("POST", `${taskPath(this.taskId)}/${move}`, body, key),
      done: (task) => {
        this.task = task;
        this.tasks.take(task);
        this._draw();
      },
      signIn: () => this.session.ask(),
    });
  }

  /** a, r and u: decide; Escape: back to the list. */
  key(event) {
    const move = { a: "approve", r: "reject", u: "unlock" }[event.key];
    if (move && this.moves().includes(move)) this.decide(move);
    else if (event.key === "Escape") location.hash = this.listAddress();
    else return false;
    return true;
  }

  // -------------------------------------------------------------------------------------- timeline, raw

  _timelineView() {
    const shown = [...this.timeline].sort((a, b) => b.seq - a.seq);
    return h(
      "section",
      { class: "panel timeline" },
      h("h2", {}, "Timeline", h("span", { class: "faint" }, this.timelineComplete ? counted(shown.length, "event") : "reading…")),
      h(
        "ol",
        { class: "events" },
        shown.slice(0, 200).map((event) =>
          h(
            "li",
            { class: `t-${toneOf(event.type)}` },
            h("div", {}, h("strong", {}, kindWord(event.type)), h("span", { class: "faint" }, " by ", said(event.actor))),
            h("div", { class: "saying" }, saying(event)),
            h("div", { class: "faint small" }, when(event.time), ` · #${event.seq}`),
          ),
        ),
      ),
      shown.length > 200 && h("p", { class: "faint" }, `The newest 200 of ${shown.length}; `, h("a", { href: `#/activity?subject=${encodeURIComponent(this.taskId)}` }, "all in the activity view")),
    );
  }

  _raw() {
    const text = () => JSON.stringify(this.task, null, 2);
    const body = () => {
      const button = h("button", { type: "button", onclick: () => copy(text(), button) }, "Copy");
      const whole = text();
      const cut = whole.length > 200_000;
      return h(
        "div",
        {},
        h("p", { class: "buttons" }, button, h("a", { href: taskPath(this.taskId), target: "_blank", rel: "noopener" }, "Open"), cut && h("span", { class: "faint" }, `The first 200,000 of ${whole.length} characters`)),
        h("pre", { class: "code", tabindex: "0" }, pieces(cut ? whole.slice(0, 200_000) : whole)),
      );
    };
    return this._fold("raw", [h("span", { class: "h3" }, "Raw JSON")], body, false, "panel");
  }
}

// ------------------------------------------------------------------------------------------------ pieces

const last = (task) => task.attempts[task.attempts.length - 1];
const begins = (event) => event.type === "task_created" || (event.type === "task_adopted" && event.data.new);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

async function collected(query) {
  const found = [];
  for await (const event of events(query, 400)) found.push(event);
  return found;
}

function duration(from, to) {
  const ms = Date.parse(to) - Date.parse(from);
  if (ms < 1000) return `${ms} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** The operations beyond the first ones, once they are asked for. */
function rest(work, row) {
  const more = h("button", { type: "button", class: "more" }, `Show all ${counted(work.length, "operation")}`);
  more.addEventListener("click", () => {
    more.previousElementSibling.tBodies[0].append(...work.slice(MAX_ROWS).map(row));
    more.remove();
  });
  return more;
}

function globs(scope) {
  return scope.length ? h("span", { class: "globs" }, scope.map((glob) => h("code", {}, said(glob)))) : h("span", { class: "faint" }, "not limited");
}

/** What of its enclosure an agent did without. That root's processes are not counted is no fault: all else holds. */
function lacking(missing) {
  const processes = missing.find((one) => one.startsWith("processes: "));
  const others = missing.filter((one) => one !== processes);
  return [
    others.length > 0 && h("p", { class: "minus" }, "Missing here: ", said(others.join("; "))),
    processes && h("p", { class: "faint small" }, "Run with no limit on the number of processes (", said(processes.slice("processes: ".length)), "); the other limits held."),
  ];
}

function detailView(text) {
  if (text.length <= 240 && !text.includes("\n")) return h("div", { class: "detail" }, said(text));
  return h("details", { class: "detail" }, h("summary", {}, said(firstWords(text).slice(0, 160) || "…")), h("pre", { class: "code" }, pieces(text)));
}

/** The first line that says something: outputs of tests like to begin with a rule. */
function firstWords(text) {
  const lines = text.split("\n");
  return lines.find((line) => /[\p{L}\p{N}]/u.test(line)) ?? lines[0];
}

function mismatchView(event) {
  const [told, got] = sideBySide(String(event.data.expected ?? ""), String(event.data.got ?? ""));
  return h(
    "div",
    { class: "mismatch" },
    h("p", {}, h("strong", {}, "Refused echo"), " by ", said(event.actor), ", ", when(event.time), event.data.where && [", differs at ", h("code", {}, said(event.data.where))]),
    event.data.where
      ? h("div", { class: "pair" }, h("div", {}, h("span", { class: "faint small" }, "told"), h("div", { class: "prose" }, told)), h("div", {}, h("span", { class: "faint small" }, "echoed"), h("div", { class: "prose" }, got)))
      : prose(event.data.detail ?? ""),
  );
}

/** How many approvals are asked for, and who gave one; nothing where one is enough and nobody gave any yet. */
function approvalsView(attempt, digest) {
  const approvals = attempt.approvals ?? [];
  const { quorum = 1, approvers = [] } = attempt.dispatch?.policy ?? {};
  if (quorum <= 1 && !approvals.length && !approvers.length) return null;
  const counts = (approval) => approval.review_digest === digest;
  const given = new Set(approvals.filter(counts).map((approval) => approval.by));
  const line = (approval) =>
    h("li", { class: counts(approval) ? "" : "faint" }, said(approval.by), ", ", when(approval.at), approval.reason && h("span", { class: "faint" }, " · ", said(approval.reason)), !counts(approval) && " · of something that stands no longer");
  return h(
    "div",
    { class: "approvals" },
    h("p", {}, h("strong", {}, `${given.size} of ${quorum} `), quorum === 1 ? "approval" : "approvals"),
    approvals.length > 0 && h("ul", {}, approvals.map(line)),
    approvers.length > 0 && h("p", { class: "faint small" }, "Asked: ", approvers.map((name, index) => [index ? ", " : "", h("span", { class: given.has(name) ? "given" : "" }, said(name))])),
  );
}

function landingView(event) {
  if (!event) return null;
  const landed = event.type === "task_landed";
  return h("p", { class: landed ? "landing" : "landing notice warn" }, h("strong", {}, kindWord(event.type)), landed ? " " : ": ", saying(event), ", ", when(event.time), ".");
}

export function digestView(digest) {
  return h("code", { title: digest }, digest ? digest.replace("sha256:", "").slice(0, 16) : "none");
}

function json(value) {
  return h("pre", { class: "code", tabindex: "0" }, pieces(JSON.stringify(value, null, 2)));
}

export { Problem };
