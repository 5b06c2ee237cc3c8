// What was raised and not cleared: a quiet line above every view, until a person puts it away in this browser.

import { readiness } from "./ask.js";
import { clear, h, said, tick, toast, when } from "./dom.js";

const SHOWN = 3;
const KEPT_AS = "kircerta-alarms-put-away";

export class Alarms {
  constructor(place) {
    this.place = place;
    this.raised = new Map(); // name -> the event that raised it
    this._seen = new Map(); // name -> seq of the newest event about it
    this._putAway = recall(); // name -> the moment at which what was put away had been raised
    setInterval(() => tick(place), 5_000);
    addEventListener("storage", (event) => {
      if (event.key !== KEPT_AS) return;
      this._putAway = recall();
      this._draw();
    });
  }

  /** Alarms from before this page was opened. */
  async read() {
    try {
      const { alarms, raised, last_seq: last } = await readiness();
      for (const { alarm, seq, time, reason } of raised) this._take({ seq, time, data: { alarm, reason, state: "raised" } });
      for (const alarm of this.raised.keys()) if (!alarms.includes(alarm) && this._seen.get(alarm) <= last) this.raised.delete(alarm);
    } catch {
      // Those that come from now on are shown all the same.
    }
    this._draw();
  }

  apply(event) {
    if (event.type === "alert" && this._take(event)) this._draw();
  }

  reset() {
    this.raised.clear();
    this._seen.clear();
    this._draw();
    this.read();
  }

  _take(event) {
    const { alarm, state } = event.data;
    if (typeof alarm !== "string" || (this._seen.get(alarm) ?? -1) >= event.seq) return false;
    this._seen.set(alarm, event.seq);
    if (state === "raised") {
      this.raised.set(alarm, event);
    } else if (state === "cleared") {
      this.raised.delete(alarm);
    }
    return true;
  }

  _putAwayNow({ time, data }) {
    const standing = [...this._putAway].filter(([name]) => this.raised.has(name));
    this._putAway = new Map([...standing, [data.alarm, time]]);
    keep(this._putAway);
    this._draw();
    (this.place.querySelector("button") ?? document.getElementById("view")).focus();
    toast("Put away in this browser until it is raised again. Activity lists every alert.");
  }

  _draw() {
    const list = [...this.raised.values()]
      .filter((event) => this._putAway.get(event.data.alarm) !== event.time)
      .sort((a, b) => b.seq - a.seq);
    this.place.hidden = list.length === 0;
    clear(this.place).append(
      ...list.slice(0, SHOWN).map((event) =>
        h(
          "p",
          {},
          h("i", { "aria-hidden": "true" }),
          h("strong", {}, said(event.data.alarm)),
          " ",
          said(event.data.reason ?? ""),
          " ",
          h("span", { class: "small" }, when(event.time, "raised ")),
          event.subject && [" ", h("a", { href: `#/tasks/${encodeURIComponent(event.subject)}` }, said(event.subject, "mono"))],
          h("button", { type: "button", class: "plain", "aria-label": `Put away ${event.data.alarm}`, onclick: () => this._putAwayNow(event) }, "Put away"),
        ),
      ),
      list.length > SHOWN ? h("p", {}, `and ${list.length - SHOWN} more: `, h("a", { href: "#/activity?type=alert" }, "all alerts")) : "",
    );
  }
}

/** A browser may keep nothing, or something else under this name: then nothing is put away. */
function recall() {
  try {
    return new Map(Object.entries(JSON.parse(localStorage.getItem(KEPT_AS)) ?? {}));
  } catch {
    return new Map();
  }
}

function keep(putAway) {
  try {
    localStorage.setItem(KEPT_AS, JSON.stringify(Object.fromEntries(putAway)));
  } catch {
    // It holds as long as this page.
  }
}
