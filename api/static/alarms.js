// What was raised and not cleared: a quiet line above every view.

import { events, readiness } from "./ask.js";
import { clear, h, said, tick, when } from "./dom.js";

const BACK_MS = 24 * 3600 * 1000; // of alarms that were raised longer ago only the name is shown
const SHOWN = 3;

export class Alarms {
  constructor(place) {
    this.place = place;
    this.raised = new Map(); // name -> the event that raised it
    this._seen = new Map(); // name -> seq of the newest event about it
    setInterval(() => tick(place), 5_000);
  }

  /** Alarms from before this page was opened: the server knows their names, the log why they were raised. */
  async read() {
    try {
      const { alarms = [], last_seq: seq } = await readiness();
      for (const alarm of alarms) this._take({ seq: 0, data: { alarm, state: "raised" } });
      this._draw();
      const since = new Date(Date.now() - BACK_MS).toISOString();
      if (alarms.length) for await (const event of events({ type: "alert", since }, 20)) this._take(event);
      for (const alarm of this.raised.keys()) if (!alarms.includes(alarm) && this._seen.get(alarm) <= seq) this.raised.delete(alarm);
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

  _draw() {
    const list = [...this.raised.values()].sort((a, b) => b.seq - a.seq);
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
          event.time && h("span", { class: "small" }, when(event.time, "raised ")),
          event.subject && [" ", h("a", { href: `#/tasks/${encodeURIComponent(event.subject)}` }, said(event.subject, "mono"))],
        ),
      ),
      list.length > SHOWN ? h("p", {}, `and ${list.length - SHOWN} more: `, h("a", { href: "#/activity?type=alert" }, "all alerts")) : "",
    );
  }
}
