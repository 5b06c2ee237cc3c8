// The words of the page: what stages, statuses and events are called, each in one place.

import { h, said } from "./dom.js";

export const STATUSES = {
  pending: "Pending",
  needs_review: "Needs review",
  approved: "Approved",
  rejected: "Rejected",
};
export const SOURCES = ["manual", "import", "github", "xcode", "telegram"];

const STAGES = {
  new: "Not dispatched",
  dispatched: "Waiting for ACK",
  acknowledged: "Executing",
  delivered: "In review",
  ended: "Stopped",
  needs_review: "Needs review",
  approved: "Approved",
  unlanded: "Could not land",
  rejected: "Rejected",
};
export const stageWord = (stage) => STAGES[stage] ?? stage;

/** A stage as a mark: a shape and a word, never colour alone. */
export function badge(stage) {
  return h("span", { class: `badge s-${stage}` }, h("i", { "aria-hidden": "true" }), stageWord(stage));
}

const KINDS = {
  task_created: "Created",
  task_adopted: "Taken over from its file",
  task_refreshed: "Refreshed by its source",
  task_restored: "File written again",
  task_invalid: "File held",
  task_dispatched: "Dispatched",
  task_redispatched: "Dispatched again",
  ack_received: "Acknowledged",
  ack_mismatch: "Echo differs",
  ack_timeout: "No ACK in time",
  heartbeat: "Heartbeat",
  heartbeat_warning: "Executor silent",
  result_received: "Result delivered",
  result_refused: "Result refused",
  verdict_received: "Verdict",
  verdict_refused: "Verdict refused",
  mutation_detected: "Reviewer changed files",
  approval_given: "Approval",
  task_approved: "Approved",
  task_landed: "Landed",
  landing_refused: "Not landed",
  landing_failed: "Needs a new attempt",
  landing_resumed: "Lands after all",
  task_rejected: "Rejected",
  move_refused: "Refused",
  reject_lock: "Locked",
  task_unlocked: "Unlocked",
  fidelity_violation: "Issues not verbatim",
  scope_violation: "Outside the scope",
  attempt_ended: "Attempt ended",
  build_status: "Build",
  command_recorded: "Command in a comment recorded",
  webhook_ignored: "Delivery ignored",
  webhook_duplicate: "Delivery repeated",
  webhook_rejected: "Delivery refused",
  telegram_dedup_hit: "Message repeated",
  out_of_order_ignored: "Older state ignored",
  auth_denied: "Access denied",
  alert: "Alert",
  projects_changed: "Projects changed",
  redelivery_requested: "Delivery asked for again",
  decision_reminder: "Decision due soon",
  decision_overdue: "Decision overdue",
  notification_sent: "Told outside",
  notification_failed: "Could not be told",
  log_recovered: "Log recovered",
  run_started: "Run started",
  run_finished: "Run finished",
  run_removed: "Run removed",
};
export const kindWord = (type) => KINDS[type] ?? type.replaceAll("_", " ");

const TONES = {
  good: ["task_approved", "task_landed", "approval_given", "task_unlocked"],
  bad: ["task_rejected", "reject_lock", "alert", "fidelity_violation", "scope_violation", "ack_timeout", "decision_overdue"],
  warn: [
    "ack_mismatch", "heartbeat_warning", "result_refused", "verdict_refused", "mutation_detected", "move_refused", "attempt_ended",
    "task_invalid", "auth_denied", "webhook_rejected", "log_recovered", "task_restored",
    "decision_reminder", "notification_failed", "landing_refused", "landing_failed",
  ],
  gate: ["verdict_received"],
  faint: ["heartbeat", "webhook_ignored", "webhook_duplicate", "telegram_dedup_hit", "out_of_order_ignored", "notification_sent"],
};
const TONE_OF = Object.fromEntries(Object.entries(TONES).flatMap(([tone, types]) => types.map((type) => [type, tone])));
export const toneOf = (type) => TONE_OF[type] ?? "plain";

export const GROUPS = {
  "": ["Everything", () => true],
  work: ["Without heartbeats", (type) => type !== "heartbeat"],
  decisions: [
    "Decisions",
    (type) => /^(task_(approved|rejected|unlocked|landed)|approval_given|reject_lock|decision_|landing_)/.test(type),
  ],
  agents: ["Agents", (type) => /^(task_(re)?dispatched|ack_|heartbeat|result_|verdict_|attempt_|scope_|fidelity_)/.test(type)],
  trouble: ["Refusals and warnings", (type) => ["bad", "warn"].includes(toneOf(type))],
};

/** "1 event", "2 events". `many` is the plural where it is not `one` with an s. */
export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
const joined = (...parts) => parts.filter(Boolean).join(" · ");

/** What an event says beyond its type, in one line. */
export function saying(event) {
  const { data } = event;
  const short = (text) => (typeof text === "string" && text.length > 300 ? `${text.slice(0, 300)}…` : text);
  switch (event.type) {
    case "task_created":
    case "task_refreshed":
      return said(short(data.task?.title ?? ""));
    case "task_adopted":
      return said(data.new ? short(data.task?.title ?? "a new file") : `changed: ${(data.fields ?? []).join(", ")}`);
    case "task_dispatched":
    case "task_redispatched": {
      const issues = data.dispatch?.issues?.length;
      const more = issues ? `, with ${counted(issues, "forwarded issue")}` : "";
      return said(`attempt ${data.attempt} to ${data.dispatch?.executor ?? "?"}${more}`);
    }
    case "ack_received":
      return said("word for word");
    case "ack_timeout":
      return said(`it was due ${data.ack_deadline}`);
    case "ack_mismatch":
      return said(data.where ? `at ${data.where}: expected ${short(data.expected)}, got ${short(data.got)}` : short(data.detail ?? ""));
    case "heartbeat":
      return said(short(data.note ?? ""));
    case "heartbeat_warning":
      return said(`nothing heard for ${Math.round(data.silent_s ?? 0)} s`);
    case "result_received":
      return said(joined(data.result?.outcome, short(data.result?.summary)));
    case "verdict_received": {
      const issues = data.verdict?.issues?.length ?? 0;
      return said(joined(data.verdict?.decision, issues && counted(issues, "issue"), short(data.verdict?.summary)));
    }
    case "task_approved":
    case "task_rejected":
      return said(short(data.decision?.reason ?? ""));
    case "task_landed":
      return said(`on ${data.branch} as ${data.commit.slice(0, 12)}`);
    case "approval_given":
      return said(joined(`${data.approvals} of ${data.quorum}`, short(data.approval?.reason)));
    case "decision_reminder":
      return said(`due ${data.due}, with ${data.approvals} of ${counted(data.quorum, "approval")}`);
    case "decision_overdue":
      return said(joined(`was due ${data.due}`, data.outcome === "expired" ? "expired" : "still waits"));
    case "projects_changed":
      return said(data.problem ? short(data.problem) : Object.keys(data.projects ?? {}).join(", ") || "no projects");
    case "redelivery_requested":
      return said(joined(data.hook, data.delivery_id));
    case "command_recorded":
      return said(short(`/${data.command} ${data.argument ?? ""}`.trimEnd()));
    case "run_started":
    case "run_finished":
    case "run_removed":
      return said(joined(data.kind, data.outcome ?? data.state, data.run_id));
    case "task_unlocked":
      return said(short(data.unlocked?.reason ?? data.reason ?? ""));
    case "reject_lock":
      return said(`after ${counted(data.rejects, "rejection")} in a row`);
    case "landing_refused":
      return said(joined(data.reason?.replaceAll("_", " "), short(data.detail)));
    case "landing_failed":
      return said(joined(data.unlanded?.reason?.replaceAll("_", " "), short(data.unlanded?.issues?.[0]?.text)));
    case "landing_resumed":
      return said(`attempt ${data.attempt} can stand there by now`);
    case "attempt_ended":
      return said(joined(data.ended?.reason, short(data.detail)));
    case "auth_denied":
    case "webhook_rejected":
      return said(`${data.count} × ${data.route} from ${data.address}`);
    case "webhook_ignored":
      return said(joined(data.sender, data.delivery_kind, data.reason?.replaceAll("_", " ")));
    case "webhook_duplicate":
    case "telegram_dedup_hit":
      return said(joined(data.sender, data.delivery_kind, data.first_seq && `first as #${data.first_seq}`));
    case "log_recovered":
      return said(`a torn line of ${counted(data.torn_bytes, "byte")} is kept as ${data.kept_as}`);
    case "task_invalid":
      return said(`${data.file}: ${short(data.detail)}`);
    case "alert":
      return said(joined(data.alarm ?? data.what, data.state, short(data.reason ?? data.detail ?? data.text)));
    case "notification_sent":
      return said(`${data.target}: ${data.kind.replaceAll("_", " ")}${data.dry_run ? ", dry run" : ""}`);
    case "notification_failed":
      return said(joined(data.target, data.kind?.replaceAll("_", " "), short(data.reason)));
    case "task_restored":
      return said(data.why ?? "");
    case "build_status":
      return said(`${data.progress ?? data.build?.progress ?? ""} ${data.status ?? data.build?.status ?? ""}`);
    default: {
      if (data.code || data.detail) return said(joined(data.code, short(data.detail)));
      const { document_sha256, idempotency, ...rest } = data;
      const text = JSON.stringify(rest);
      return said(text === "{}" ? "" : short(text));
    }
  }
}
