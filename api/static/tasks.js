// All tasks as the list shows them: loaded page by page, then kept true by the events of the log.

import { get, taskPath } from "./ask.js";

/** What an event makes of its task, where the event alone tells it. */
const MOVES = {
  task_dispatched: { stage: "dispatched", status: "pending" },
  task_redispatched: { stage: "dispatched", status: "pending" },
  ack_received: { stage: "acknowledged", status: "pending" },
  result_received: { stage: "delivered", status: "pending" },
  verdict_received: { stage: "needs_review", status: "needs_review" },
  ack_timeout: { stage: "ended", status: "pending" },
  attempt_ended: { stage: "ended", status: "pending" },
  task_approved: { stage: "approved", status: "approved" },
  landing_failed: { stage: "unlanded", status: "approved" },
  landing_resumed: { stage: "approved", status: "approved" },
  task_rejected: { stage: "rejected", status: "rejected" },
  reject_lock: { locked: true },
  task_unlocked: { locked: false },
};
const TOO_MANY = 300; // tasks to read one by one; more, and the list is read anew

export class Tasks {
  constructor() {
    this.byId = new Map();
    this.loading = false;
    this.loaded = false;
    this.problem = null;
    this.version = 0;
    this._listeners = new Set();
    this._asked = new Set();
    this._asking = 0;
    this._round = 0;
  }

  on(listener) {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  /** Tell at most once a frame; seldomer where sorting takes a while, and in hidden tabs, which have no frames. */
  _changed() {
    this.version++;
    if (this._due) return;
    this._due = true;
    const tell = () => {
      this._due = false;
      for (const listener of this._listeners) listener();
    };
    if (document.hidden || this.byId.size > 2000) setTimeout(tell, 150);
    else requestAnimationFrame(tell);
  }

  /** Read all pages. What events told meanwhile stays where it is newer. */
  async load() {
    const round = ++this._round;
    this.loading = true;
    this.problem = null;
    this._changed();
    const found = new Set();
    try {
      let cursor = null;
      do {
        const query = new URLSearchParams({ limit: "1000", ...(cursor && { cursor }) });
        const page = await get(`/api/tasks?${query}`);
        if (round !== this._round) return;
        for (const summary of page.tasks) {
          found.add(summary.task_id);
          this._put(summary);
        }
        cursor = page.next_cursor;
        this._changed();
      } while (cursor);
      for (const [taskId, summary] of this.byId) if (!found.has(taskId) && !summary.told) this.byId.delete(taskId);
      this.loaded = true;
    } catch (error) {
      if (round === this._round) this.problem = error;
    } finally {
      if (round === this._round) this.loading = false;
      this._changed();
    }
  }

  /** Everything anew: the log is another one. */
  reload() {
    this.byId.clear();
    this._asked.clear();
    return this.load();
  }

  _put(summary) {
    const before = this.byId.get(summary.task_id);
    if (before && before.seq > summary.seq) return;
    this.byId.set(summary.task_id, summary);
  }

  apply(event) {
    const taskId = event.subject;
    if (!taskId || !event.data.document_sha256) return;
    const before = this.byId.get(taskId);
    if (before && before.seq >= event.seq) return;
    const move = MOVES[event.type];
    if (!before || !move) {
      if (event.type === "task_created" && event.data.task) this._create(event);
      else this._ask(taskId);
      return;
    }
    this.byId.set(taskId, {
      ...before,
      ...move,
      attempt: event.data.attempt ?? before.attempt,
      revision: before.revision + 1,
      seq: event.seq,
      updated_at: event.time,
      told: true,
    });
    this._changed();
  }

  _create(event) {
    const { title, source, created_at } = event.data.task;
    this._put({
      task_id: event.subject,
      title,
      source,
      status: "pending",
      stage: "new",
      locked: false,
      attempt: 0,
      revision: 1,
      seq: event.seq,
      created_at,
      updated_at: event.time,
      correlation_id: event.correlationid,
      told: true,
    });
    this._changed();
  }

  /** Read one task, soon; a burst of changes to it is one read. */
  _ask(taskId) {
    this._asked.add(taskId);
    if (this._asked.size > TOO_MANY) {
      this._asked.clear();
      this.load();
      return;
    }
    if (this._asking < 3) this._answer();
  }

  async _answer() {
    this._asking++;
    try {
      while (this._asked.size) {
        const [taskId] = this._asked;
        this._asked.delete(taskId);
        try {
          this.take(await get(taskPath(taskId)));
        } catch (error) {
          if (error.status !== 404) this.problem = error;
        }
      }
    } finally {
      this._asking--;
    }
  }

  /** Take over a task that was read as a whole. */
  take(task) {
    const last = task.attempts[task.attempts.length - 1];
    this._put({ ...task, stage: stageOf(last), attempt: last ? last.attempt : 0, attempts: undefined, told: true });
    this._changed();
  }

  counts() {
    const counts = { all: this.byId.size, pending: 0, needs_review: 0, approved: 0, rejected: 0, locked: 0 };
    for (const { status, locked } of this.byId.values()) {
      counts[status]++;
      if (locked) counts.locked++;
    }
    return counts;
  }
}

/** How far an attempt has come. */
export function stageOf(attempt) {
  if (!attempt) return "new";
  if (attempt.unlanded) return "unlanded";
  if (attempt.decision) return attempt.decision.decision;
  if (attempt.verdict) return "needs_review";
  if (attempt.ended) return "ended";
  if (attempt.result) return "delivered";
  return attempt.ack ? "acknowledged" : "dispatched";
}
