// The log as it grows: newest first, filtered, pausable.

import { get } from "./ask.js";
import { clear, clock, copy, exact, h, pieces, said } from "./dom.js";
import { VirtualList } from "./virtual.js";
import { GROUPS, counted, kindWord, saying, toneOf } from "./words.js";

const KEPT = 20_000; // events; older ones are read again when they are asked for
const WINDOW = 500;
const narrow = matchMedia("(max-width: 720px)");

export class ActivityView {
  title = "Activity";

  constructor(link) {
    this.link = link;
    this.events = []; // newest first
    this.held = [];
    this.paused = false;
    this.filter = { group: "", type: "", subject: "" };
    this._types = new Map();
    this._build();
  }

  _build() {
    this.group = h(
      "select",
      { "aria-label": "Kind of event", onchange: () => this._filterBy({ group: this.group.value }) },
      Object.entries(GROUPS).map(([key, [word]]) => h("option", { value: key }, word)),
    );
    this.type = h("select", { "aria-label": "Type", onchange: () => this._filterBy({ type: this.type.value }) }, h("option", { value: "" }, "Any type"));
    this.subject = h("input", {
      type: "search",
      placeholder: "Task or text  ( / )",
      "aria-label": "Task id or text",
      spellcheck: "false",
      oninput: () => this._filterBy({ subject: this.subject.value }),
    });
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => this._pause(!this.paused) }, "Pause");
    this.count = h("span", { class: "count", role: "status" });
    this.scroller = h("div", { class: "scroller log", role: "table", "aria-label": "Events", tabindex: "-1" });
    this.more = h("button", { type: "button", class: "more", onclick: () => this._older() }, "Load earlier events");
    this.empty = h("div", { class: "empty" }, "Reading the log…");
    this.detail = h("aside", { class: "panel eventdetail", hidden: true, "aria-label": "Event" });
    this.root = h(
      "section",
      { class: "view activity" },
      h("h1", { class: "offscreen" }, "Activity"),
      h("div", { class: "bar" }, this.group, this.type, this.subject, h("div", { class: "grow" }), this.count, this.pause),
      h("div", { class: "split" }, h("div", { class: "panel tall" }, this.scroller, this.empty, this.more), this.detail),
    );
    this.list = new VirtualList({
      scroller: this.scroller,
      rowHeight: () => (narrow.matches ? 52 : 28),
      key: (event) => event.seq,
      build: (event) => this._row(event),
      patch: () => {},
      offset: 0,
    });
  }

  show(place, parameters) {
    for (const name of ["group", "type", "subject"]) this.filter[name] = parameters.get(name) ?? "";
    this.group.value = this.filter.group;
    this.subject.value = this.filter.subject;
    place.append(this.root);
    if (!this.loaded) this._load();
    this._refresh();
  }

  hide() {
    this.root.remove();
  }

  async _load() {
    this.loaded = true;
    this.first = this.link.seq + 1;
    await this._older();
  }

  /** One window further back. */
  async _older() {
    if (this._reading || this.first <= 1) return;
    this._reading = true;
    const upTo = this.first;
    const from = Math.max(0, upTo - 1 - WINDOW);
    try {
      const page = await get(`/api/audit?after=${from}&limit=${WINDOW}`);
      const older = page.events.filter((event) => event.seq < upTo).reverse();
      this.events.push(...older);
      for (const event of older) this._count(event);
      this.first = from + 1;
      this.problem = null;
    } catch (error) {
      this.problem = error;
    } finally {
      this._reading = false;
      this._refresh();
    }
    const few = this.list.items.length < 40 && this.first > 1 && !this.problem;
    if (few && this.events.length < KEPT) await this._older();
  }

  apply(event) {
    if (!this.loaded) return;
    if (this.paused) {
      this.held.push(event);
      this._drawPause();
      return;
    }
    this._take([event]);
  }

  _take(fresh) {
    for (const event of fresh) {
      if (this.events.length && event.seq <= this.events[0].seq) continue;
      this.events.unshift(event);
      this._count(event);
    }
    if (this.events.length > KEPT * 1.1) {
      this.events.length = KEPT;
      this.first = this.events[KEPT - 1].seq;
    }
    this._refreshSoon();
  }

  _refreshSoon() {
    if (this._due || !this.root.isConnected) return;
    this._due = requestAnimationFrame(() => {
      this._due = 0;
      this._refresh();
    });
  }

  reset() {
    this.events = [];
    this.held = [];
    this.loaded = false;
    if (this.root.isConnected) this._load();
  }

  _pause(paused) {
    this.paused = paused;
    this._drawPause();
    if (!paused) this._take(this.held.splice(0));
  }

  _drawPause() {
    this.pause.setAttribute("aria-pressed", String(this.paused));
    const waiting = this.held.length;
    this.pause.textContent = this.paused ? (waiting ? `Go on (${waiting} new)` : "Go on") : "Pause";
  }

  _count(event) {
    const known = this._types.has(event.type);
    this._types.set(event.type, (this._types.get(event.type) ?? 0) + 1);
    if (known) return;
    const types = [...this._types.keys()].sort();
    clear(this.type).append(h("option", { value: "" }, "Any type"), ...types.map((type) => h("option", { value: type }, type)));
    this.type.value = this.filter.type;
  }

  _filterBy(change) {
    Object.assign(this.filter, change);
    const query = new URLSearchParams(Object.entries(this.filter).filter(([, value]) => value)).toString();
    history.replaceState(null, "", query ? `#/activity?${query}` : "#/activity");
    this.scroller.scrollTop = 0;
    this._refresh();
  }

  _refresh() {
    if (!this.root.isConnected) return;
    const { group, type, subject } = this.filter;
    const fits = GROUPS[group]?.[1] ?? (() => true);
    const text = subject.trim().toLowerCase();
    const shown = this.events.filter(
      (event) => fits(event.type) && (!type || event.type === type) && (!text || this._text(event).includes(text)),
    );
    this.list.anchored(() => (this.list.items = shown));
    this.scroller.setAttribute("aria-rowcount", String(shown.length));
    const words = shown.length === this.events.length ? counted(shown.length, "event") : `${shown.length} of ${this.events.length}`;
    if (this.count.textContent !== words) this.count.textContent = words;
    this.empty.hidden = shown.length > 0;
    if (!shown.length) this.empty.textContent = this.problem?.detail ?? (this._reading ? "Reading the log…" : this.events.length ? "No event fits these filters." : "The log is empty.");
    this.more.hidden = this.first <= 1;
    this.more.textContent = this._reading ? "Reading…" : `Load earlier events (from #${Math.max(1, this.first - WINDOW)})`;
    if (this.type.value !== type) this.type.value = type;
  }

  _text(event) {
    return `${event.subject ?? ""} ${event.type} ${event.actor} ${event.seq}`.toLowerCase();
  }

  _row(event) {
    const row = h(
      "div",
      { class: `row t-${toneOf(event.type)}`, role: "row" },
      h("div", { role: "cell", class: "c-time", title: exact(event.time) }, clock(event.time)),
      h("div", { role: "cell", class: "c-kind" }, h("button", { type: "button", class: "rowlink", "aria-label": `${kindWord(event.type)}, event ${event.seq}` }, h("i", { "aria-hidden": "true" }), kindWord(event.type))),
      h("div", { role: "cell", class: "c-subject" }, event.subject ? h("a", { href: `#/tasks/${encodeURIComponent(event.subject)}` }, said(event.subject, "mono")) : h("span", { class: "faint" }, "–")),
      h("div", { role: "cell", class: "c-saying" }, saying(event)),
      h("div", { role: "cell", class: "c-actor" }, said(event.actor)),
      h("div", { role: "cell", class: "c-seq" }, `#${event.seq}`),
    );
    row.addEventListener("click", (clicked) => {
      if (!clicked.target.closest("a") && !getSelection().toString()) this._tell(event, row);
    });
    return row;
  }

  _tell(event, row) {
    for (const other of this.scroller.querySelectorAll(".chosen")) other.classList.remove("chosen");
    row.classList.add("chosen");
    const text = JSON.stringify(event, null, 2);
    const button = h("button", { type: "button", onclick: () => copy(text, button) }, "Copy");
    const close = h("button", { type: "button", class: "quiet", onclick: () => this._closeDetail() }, "Close");
    clear(this.detail).append(
      h("h2", {}, kindWord(event.type), h("span", { class: "faint" }, ` #${event.seq}`)),
      h("p", { class: "faint small" }, exact(event.time)),
      h("p", { class: "buttons" }, event.subject && h("a", { href: `#/tasks/${encodeURIComponent(event.subject)}` }, "Open task"), button, close),
      h("pre", { class: "code", tabindex: "0" }, pieces(text)),
    );
    this.detail.hidden = false;
  }

  _closeDetail() {
    this.detail.hidden = true;
    const chosen = this.scroller.querySelector(".chosen");
    chosen?.classList.remove("chosen");
    chosen?.querySelector("button").focus();
  }

  key(event) {
    if (event.key === "/") this.subject.select(), this.subject.focus();
    else if (event.key === "p") this._pause(!this.paused);
    else if (event.key === "Escape" && !this.detail.hidden) this._closeDetail();
    else if (event.key === "j" || event.key === "k") this._step(event.key === "j" ? 1 : -1);
    else return false;
    return true;
  }

  _step(by) {
    const row = document.activeElement?.closest?.(".row");
    const here = row ? this.list.items.findIndex((event) => this.list.rows.get(event.seq) === row) : by > 0 ? -1 : 0;
    const next = Math.max(0, Math.min(this.list.items.length - 1, here + by));
    if (this.list.items.length) this.list.reveal(next)?.querySelector("button").focus({ preventScroll: true });
  }
}
