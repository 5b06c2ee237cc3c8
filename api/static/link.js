// The one connection to the log, shared between all tabs of a browser: one tab leads (Web Locks), the others hear it
// (BroadcastChannel). Sequence numbers have no gaps, so every tab knows by itself whether it missed anything.

import { Problem, events, lastSeq } from "./ask.js";

const NAME = "kircerta-stream";
const SILENT_MS = 40_000; // the server says something at least every 15 s
const TOO_FAR = 5_000; // events; reading everything anew is quicker than replaying more
const HIDDEN_MS = 20_000; // without locks: how long a hidden tab keeps its own connection

export class Link {
  constructor() {
    this.state = "connecting";
    this.why = "";
    this.seq = 0;
    this.id = null;
    this.leads = false;
    this._listeners = { event: new Set(), state: new Set(), reset: new Set() };
    this._inbox = [];
    this._draining = false;
    this._heard = Date.now();
    this._leaderHidden = false;
    this._channel = null;
    this._reading = null;
    this._wake = null;
  }

  on(kind, listener) {
    this._listeners[kind].add(listener);
    return () => this._listeners[kind].delete(listener);
  }

  _emit(kind, ...values) {
    for (const listener of this._listeners[kind]) {
      try {
        listener(...values);
      } catch (error) {
        console.error(error);
      }
    }
  }

  /** Begin behind `seq`: what is read from now on is newer. */
  start(seq) {
    this.seq = seq;
    addEventListener("online", () => this._wakeUp());
    document.addEventListener("visibilitychange", () => this._visibility());
    addEventListener("pagehide", () => this._reading?.abort());
    if (!navigator.locks || typeof BroadcastChannel === "undefined") {
      this._alone();
      return;
    }
    this._channel = new BroadcastChannel(NAME);
    this._channel.onmessage = (message) => this._hear(message.data);
    this._stand({});
    this._channel.postMessage({ kind: "hello" });
    setInterval(() => this._watchLeader(), 5_000);
  }

  // ------------------------------------------------------------------------------------------ leading

  /** Ask to lead: granted at once, or when the leading tab is closed. `steal` takes it from a tab that fell asleep. */
  _stand(options) {
    navigator.locks
      .request(NAME, options, () => this._lead())
      .catch(() => {
        // Stolen from us: hear the other one from now on.
        this._leads(false);
        this._reading?.abort();
        this._heard = Date.now();
        this._stand({});
      });
  }

  async _lead() {
    this._leads(true);
    while (this.leads) await this._connectOnce();
  }

  _leads(leads) {
    this.leads = leads;
    this._emit("state", this.state, this.why);
  }

  /** Without locks every tab is on its own, and only while it is looked at: browsers allow some six connections. */
  async _alone() {
    this._leads(true);
    for (;;) {
      if (document.hidden && Date.now() - this._hiddenSince > HIDDEN_MS) await this._until(() => !document.hidden);
      await this._connectOnce();
    }
  }

  _hiddenSince = Date.now();
  _failures = 0;

  async _connectOnce() {
    this._tell(this.state === "live" ? "catching up" : this.state === "lost" ? "lost" : "connecting", this.why);
    const reading = (this._reading = new AbortController());
    let why = "the connection ended";
    let refused = false;
    try {
      const target = await lastSeq(reading.signal);
      await this._read(target, reading);
    } catch (error) {
      why = error instanceof Problem ? error.detail : "the server cannot be reached";
      refused = error instanceof Problem && [401, 403].includes(error.status);
      if (refused) why = "sign in to see it";
    }
    clearTimeout(this._silence);
    reading.abort();
    if (!this.leads) return;
    const wait = Math.min(5000, 250 * 2 ** this._failures++) * (0.75 + Math.random() / 2);
    this._tell("lost", why);
    await this._pause(refused ? 60_000 : wait); // signing in wakes it
  }

  async _read(target, reading) {
    const headers = { Accept: "text/event-stream" };
    if (this.id) headers["Last-Event-ID"] = this.id;
    const path = this.id ? "/api/events" : `/api/events?after=${this.seq}`;
    const options = { headers, cache: "no-store", credentials: "same-origin", signal: reading.signal };
    const response = await fetch(path, options);
    if (!response.ok) throw await Problem.of(response);
    this._failures = 0;
    this._tell(this.seq < target ? "catching up" : "live");
    const frames = new Frames();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      clearTimeout(this._silence);
      this._silence = setTimeout(() => reading.abort(), SILENT_MS);
      const { done, value } = await reader.read();
      if (done) return;
      this._take(frames.feed(value));
      if (this.state !== "live" && this._last() >= target) this._tell("live");
      else this._beat();
    }
  }

  _last() {
    return this._inbox.length ? this._inbox[this._inbox.length - 1].seq : this.seq;
  }

  _take(frames) {
    let batch = [];
    for (const frame of frames) {
      if (frame.event === "reset") {
        this._share(batch);
        batch = [];
        this._channel?.postMessage({ kind: "reset", id: frame.id });
        this._reset(frame.id);
      } else if (frame.data) {
        batch.push([frame.id, frame.data]);
      }
    }
    this._share(batch);
  }

  _share(batch) {
    if (!batch.length) return;
    this._channel?.postMessage({ kind: "events", batch });
    this._receive(batch);
  }

  _tell(state, why = "") {
    this._set(state, why);
    this._beat();
  }

  _beat() {
    const { state, why } = this;
    this._channel?.postMessage({ kind: "state", state, why, seq: this._last(), hidden: document.hidden });
  }

  // ---------------------------------------------------------------------------------------- following

  _hear(message) {
    if (message.kind === "hello") {
      if (this.leads) this._beat();
      return;
    }
    if (this.leads) return;
    this._heard = Date.now();
    if (message.kind === "events") this._receive(message.batch);
    else if (message.kind === "reset") this._reset(message.id);
    else {
      this._leaderHidden = message.hidden;
      this._set(message.state, message.why);
      if (message.state === "live" && message.seq > this._last()) this._drain(message.seq);
    }
  }

  /** A leader that fell asleep with its tab, or cannot reconnect because its timers are slowed down, is replaced. */
  _watchLeader() {
    if (this.leads || document.hidden) return;
    const silent = Date.now() - this._heard > SILENT_MS;
    if (silent || (this.state === "lost" && this._leaderHidden)) this._stand({ steal: true });
  }

  _visibility() {
    if (document.hidden) {
      this._hiddenSince = Date.now();
      if (!this._channel) setTimeout(() => document.hidden && this._reading?.abort(), HIDDEN_MS);
      return;
    }
    this._wakeUp();
    if (this._channel && !this.leads) this._watchLeader();
  }

  // --------------------------------------------------------------------------------- order and gaps

  _receive(batch) {
    for (const [id, data] of batch) {
      const event = JSON.parse(data);
      this._inbox.push({ seq: event.seq, id, event });
    }
    this._drain(0);
  }

  /** Hand on what came, in order; what is missing in between is read from the log first. */
  async _drain(upTo) {
    this._upTo = Math.max(this._upTo ?? 0, upTo);
    if (this._draining) return;
    this._draining = true;
    try {
      while (this._inbox.length || this._upTo > this.seq) {
        const next = this._inbox[0];
        const due = next ? next.seq : this._upTo + 1;
        if (due > this.seq + 1 && !(await this._fill(due))) return;
        if (next && next === this._inbox[0]) {
          this._inbox.shift();
          if (next.seq > this.seq) this._pass(next.event, next.id);
        }
      }
    } finally {
      this._draining = false;
    }
  }

  /** Read the events between the last one seen and `due` from the log. */
  async _fill(due) {
    if (due - this.seq > TOO_FAR) {
      this.seq = due - 1;
      this._emit("reset");
      return true;
    }
    try {
      for await (const event of events({ after: this.seq })) {
        if (event.seq >= due) break;
        if (event.seq > this.seq) this._pass(event, null);
      }
      if (this.seq < due - 1) this.seq = due - 1; // not in the log: then there is nothing to miss
      return true;
    } catch {
      setTimeout(() => this._drain(0), 1000);
      return false;
    }
  }

  _pass(event, id) {
    this.seq = event.seq;
    this.id = id;
    this._emit("event", event);
  }

  /** The log is another one, or begins anew: go on from where it stands now, and read everything again. */
  _reset(id) {
    this._inbox = [];
    this._upTo = 0;
    this.id = id;
    this.seq = Number.parseInt(id, 10) || 0;
    this._emit("reset");
  }

  // --------------------------------------------------------------------------------------------- rest

  _set(state, why = "") {
    if (state === this.state && why === this.why) return;
    this.state = state;
    this.why = why;
    this._emit("state", state, why);
  }

  _pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this._wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  _wakeUp() {
    this._failures = 0;
    this._wake?.();
  }

  /** Connect again at once: somebody signed in or out. */
  again() {
    if (this.leads) {
      this._failures = 0;
      this._reading?.abort();
      this._wakeUp();
    }
  }

  async _until(condition) {
    while (!condition()) await this._pause(60_000);
  }
}

/** Server-sent events out of chunks of text (WHATWG HTML, 9.2.6). */
export class Frames {
  constructor() {
    this._rest = "";
    this._id = null;
  }

  feed(text) {
    this._rest += text;
    const found = [];
    let end;
    while ((end = this._rest.indexOf("\n\n")) >= 0) {
      const frame = this._frame(this._rest.slice(0, end));
      this._rest = this._rest.slice(end + 2);
      if (frame) found.push(frame);
    }
    return found;
  }

  _frame(text) {
    const data = [];
    let event = "message";
    for (const line of text.split("\n")) {
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") data.push(value);
      else if (name === "event") event = value;
      else if (name === "id") this._id = value;
    }
    return data.length || event !== "message" ? { id: this._id, event, data: data.join("\n") } : null;
  }
}
