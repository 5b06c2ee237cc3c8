// Who is executing now: open attempts, the last sign of life of each, and warnings.

import { events, get, taskPath } from "./ask.js";
import { clear, h, said, span } from "./dom.js";
import { badge } from "./words.js";

const OPEN = new Set(["dispatched", "acknowledged", "delivered"]);
const MAX = 200; // attempts shown at once
const SIGNS = new Set(["ack_received", "heartbeat"]);

export class AgentsView {
  title = "Agents";

  constructor(tasks, link) {
    this.tasks = tasks;
    this.link = link;
    this.attempts = new Map(); // task id -> what is known of its open attempt
    this.signs = new Map(); // dispatch id -> {at, note}
    this.warnings = new Map(); // dispatch id -> {count, at}
    this.summary = h("p", { class: "count", role: "status" });
    this.cards = h("div", { class: "agents" });
    this.empty = h("div", { class: "empty" });
    this.root = h("section", { class: "view agentsview" }, h("div", { class: "bar" }, h("h1", {}, "Agents"), h("div", { class: "grow" }), this.summary), this.cards, this.empty);
    tasks.on(() => this._follow());
    setInterval(() => this.root.isConnected && this._age(), 1000);
  }

  show(place) {
    place.append(this.root);
    this._follow();
    this._history();
  }

  hide() {
    this.root.remove();
  }

  reset() {
    this.attempts.clear();
    this.signs.clear();
    this.warnings.clear();
    this._read = false;
    if (this.root.isConnected) this.show(this.root.parentElement);
  }

  apply(event) {
    this._sign(event);
    if (this.root.isConnected && ["heartbeat", "heartbeat_warning"].includes(event.type)) this._draw();
  }

  _sign(event) {
    const id = event.data.dispatch_id;
    if (!id) return;
    if (SIGNS.has(event.type)) this.signs.set(id, { at: event.time, note: event.data.note ?? "" });
    if (event.type === "heartbeat_warning") {
      const before = this.warnings.get(id) ?? { count: 0, seq: 0 };
      if (event.seq > before.seq) this.warnings.set(id, { count: before.count + 1, at: event.time, seq: event.seq });
    }
    if (this.signs.size > 5000) this.signs.delete(this.signs.keys().next().value);
  }

  /** Heartbeats and warnings from before this page was opened. */
  async _history() {
    if (this._read) return;
    this._read = true;
    const open = [...this.tasks.byId.values()].filter((task) => OPEN.has(task.stage));
    if (!open.length) {
      this._read = false;
      return;
    }
    const since = open.map((task) => task.updated_at).sort()[0];
    try {
      for (const type of ["heartbeat", "heartbeat_warning"]) {
        for await (const event of events({ type, since }, 20)) this._sign(event);
      }
    } catch {
      this._read = false;
    }
    this._draw();
  }

  /** Learn of attempts that opened, forget those that closed. */
  async _follow() {
    if (!this.root.isConnected) return;
    const open = [...this.tasks.byId.values()].filter((task) => OPEN.has(task.stage));
    this.total = open.length;
    const shown = open.sort((a, b) => (a.updated_at < b.updated_at ? -1 : 1)).slice(0, MAX);
    const wanted = new Set(shown.map((task) => task.task_id));
    for (const taskId of this.attempts.keys()) if (!wanted.has(taskId)) this.attempts.delete(taskId);
    const unknown = [];
    for (const task of shown) {
      const known = this.attempts.get(task.task_id);
      if (known && known.seq >= task.seq) continue;
      if (known) Object.assign(known, { stage: task.stage, title: task.title });
      unknown.push(task);
    }
    this._draw();
    if (this._reading || !unknown.length) return;
    this._reading = true;
    try {
      for (const task of unknown) await this._learn(task.task_id);
    } finally {
      this._reading = false;
      this._draw();
    }
    if (unknown.length) this._follow();
  }

  async _learn(taskId) {
    try {
      const task = await get(taskPath(taskId));
      const attempt = task.attempts[task.attempts.length - 1];
      if (!attempt?.dispatch) return;
      const { dispatch, ack } = attempt;
      if (ack && !this.signs.has(dispatch.dispatch_id)) this.signs.set(dispatch.dispatch_id, { at: ack.at, note: "" });
      this.attempts.set(taskId, {
        taskId,
        title: task.title,
        seq: task.seq,
        number: attempt.attempt,
        stage: attempt.result ? "delivered" : ack ? "acknowledged" : "dispatched",
        executor: dispatch.executor,
        reviewer: dispatch.reviewer,
        principal: ack?.by ?? "",
        dispatchId: dispatch.dispatch_id,
        at: dispatch.at,
        deadline: dispatch.ack_deadline,
        deliveredAt: attempt.result?.at,
      });
    } catch {
      // It is asked for again with the next change.
    }
  }

  _draw() {
    if (!this.root.isConnected) return;
    const groups = new Map();
    for (const attempt of this.attempts.values()) {
      const name = attempt.stage === "delivered" ? `${attempt.reviewer} (review)` : attempt.executor;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(attempt);
    }
    const focused = document.activeElement?.closest?.("[data-task]")?.dataset.task;
    clear(this.cards).append(...[...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, list]) => this._card(name, list)));
    if (focused) [...this.cards.querySelectorAll("[data-task]")].find((row) => row.dataset.task === focused)?.querySelector("a").focus({ preventScroll: true });
    const silent = [...this.attempts.values()].filter((attempt) => this._warned(attempt)).length;
    const text = this.total ? `${this.total} at work${this.total > MAX ? ` (${MAX} shown)` : ""}${silent ? ` · ${silent} silent` : ""}` : "";
    if (this.summary.textContent !== text) this.summary.textContent = text;
    this.empty.hidden = this.attempts.size > 0;
    this.empty.textContent = this.total || (this.tasks.loading && !this.tasks.loaded) ? "Reading…" : "Nobody is at work. Attempts show here from their dispatch to their verdict.";
    this._age();
  }

  /** Warned, and not heard of since. */
  _warned(attempt) {
    const warning = this.warnings.get(attempt.dispatchId);
    const sign = this.signs.get(attempt.dispatchId);
    return attempt.stage === "acknowledged" && warning && (!sign || sign.at < warning.at);
  }

  _card(name, list) {
    list.sort((a, b) => (a.at < b.at ? -1 : 1));
    return h(
      "section",
      { class: "panel agent" },
      h("h2", {}, said(name), h("span", { class: "faint" }, `${list.length}`)),
      h(
        "div",
        { class: "wide" },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["Task", "Stage", "As", "Since", "Last sign of life", "Warnings"].map((word) => h("th", { scope: "col" }, word)))),
          h("tbody", {}, list.map((attempt) => this._row(attempt))),
        ),
      ),
    );
  }

  _row(attempt) {
    const warning = this.warnings.get(attempt.dispatchId);
    const note = this.signs.get(attempt.dispatchId)?.note;
    return h(
      "tr",
      { class: this._warned(attempt) ? "warned" : "", "data-task": attempt.taskId },
      h("td", { class: "target" }, h("a", { href: `#/tasks/${encodeURIComponent(attempt.taskId)}` }, said(attempt.taskId, "mono")), " ", h("span", { class: "faint" }, said(attempt.title))),
      h("td", {}, badge(attempt.stage), attempt.number > 1 && h("span", { class: "faint" }, ` attempt ${attempt.number}`)),
      h("td", { "data-label": "As" }, attempt.principal && attempt.stage !== "delivered" ? said(attempt.principal) : h("span", { class: "faint" }, "–")),
      h("td", { class: "num", "data-label": "Since", "data-since": attempt.at }),
      h("td", { class: "sign", "data-label": "Sign of life" }, h("span", { "data-sign": attempt.taskId }), note && h("span", { class: "faint" }, " ", said(note))),
      h("td", { class: "num", "data-label": "Warnings" }, warning ? h("span", { class: "tag bad" }, String(warning.count)) : h("span", { class: "faint" }, "none")),
    );
  }

  /** Times that move on, without drawing anew. */
  _age() {
    for (const cell of this.cards.querySelectorAll("[data-since]")) setText(cell, since(cell.dataset.since));
    for (const cell of this.cards.querySelectorAll("[data-sign]")) {
      const attempt = this.attempts.get(cell.dataset.sign);
      if (attempt) setText(cell, this._signText(attempt));
    }
  }

  _signText(attempt) {
    if (attempt.stage === "dispatched") {
      const left = (Date.parse(attempt.deadline) - Date.now()) / 1000;
      return left > 0 ? `ACK due in ${span(left)}` : "ACK overdue";
    }
    if (attempt.stage === "delivered") return `delivered ${since(attempt.deliveredAt)} ago`;
    const sign = this.signs.get(attempt.dispatchId);
    if (!sign) return "none yet";
    return this._warned(attempt) ? `silent for ${since(sign.at)}` : `${since(sign.at)} ago`;
  }

  key() {
    return false;
  }
}

const since = (timestamp) => span(Math.max(0, (Date.now() - Date.parse(timestamp)) / 1000));

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
