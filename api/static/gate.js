// The dialogs in which people decide. What is sent names, by its digest, exactly what was on the screen.

import { Problem, newKey } from "./ask.js";
import { add, clear, complain, dialog, h, pieces, said, toast } from "./dom.js";
import { counted } from "./words.js";

const TITLES = { approve: "Approve", reject: "Reject", unlock: "Unlock" };
const DONE = { approve: "Approved", reject: "Rejected", unlock: "Unlocked" };

/** Ask for a decision on `task` as it is on the screen. `desk` reads the task, sends the decision, takes the answer. */
export function openGate(move, task, desk) {
  const gate = { move, task, desk, key: newKey() };
  const attempt = task.attempts[task.attempts.length - 1];
  const word = move === "reject" && task.status === "pending" ? "Decline" : TITLES[move];
  const reason = h("textarea", {
    name: "reason",
    rows: "3",
    required: move !== "approve",
    placeholder: move === "approve" ? "Why (optional)" : "Why (needed)",
    "aria-label": "Reason",
  });
  const issues = move === "reject" ? new IssueEditor(task, attempt) : null;
  const notice = h("div", { class: "changes", role: "alert" });
  const about = h("p", {}, said(task.task_id, "mono"), " · ", said(task.title));
  const seen = h("div");
  describe(seen, move, task);
  const submit = h("button", { type: "submit", class: move === "approve" ? "good" : move === "reject" ? "bad" : "primary" }, word);
  const body = [about, seen, notice, h("label", {}, "Reason", reason), issues?.element];
  const shown = dialog(titleOf(word, move, task), body, [submit], async (box) => {
    clear(box.querySelector(".error"));
    if (move !== "approve" && !reason.value.trim()) {
      reason.focus();
      throw new Error(move === "reject" ? "A rejection needs a reason." : "Unlocking needs a reason.");
    }
    const content = { reason: reason.value };
    if (move !== "unlock" && gate.task.review_digest) content.review_digest = gate.task.review_digest;
    const listed = issues?.read() ?? [];
    if (listed.length) content.issues = listed;
    submit.disabled = true;
    try {
      const answer = await desk.send(content, gate.key);
      desk.done(answer);
      box.close();
      const one = move === "approve" && answer.status === "needs_review"; // of several that are asked for
      toast(`${one ? "Approval given" : DONE[move]}: ${task.task_id}`, "good");
    } catch (error) {
      await refused(error, gate, { box, notice, seen, submit, issues, word });
    } finally {
      submit.disabled = false;
    }
  });
  reason.focus();
  return shown;
}

function titleOf(word, move, task) {
  const attempt = task.attempts[task.attempts.length - 1];
  return `${word} ${attempt && move !== "unlock" ? `attempt ${attempt.attempt}` : "this task"}`;
}

function describe(place, move, task) {
  clear(place);
  if (move === "unlock" || !task.review_digest) return;
  const { verdict } = task.attempts[task.attempts.length - 1];
  add(
    place,
    h("p", { class: "faint small" }, `The reviewer says ${verdict.decision}, with ${counted(verdict.issues.length, "issue")}. You decide on `, h("code", { title: task.review_digest }, task.review_digest.slice(7, 23)), "."),
  );
}

async function refused(error, gate, { box, notice, seen, submit, issues, word }) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 0) throw new Error("The server cannot be reached. Send it again: it is not done twice.");
  gate.key = newKey();
  if (error.code === "unauthenticated") gate.desk.signIn();
  if (error.code !== "stale_review") throw error;
  const before = gate.task;
  const now = await gate.desk.read();
  gate.task = now;
  gate.desk.done(now);
  box.querySelector("h2").textContent = titleOf(word, gate.move, now);
  describe(seen, gate.move, now);
  issues?.renew(now);
  clear(notice).append(
    h("p", {}, h("strong", {}, "It changed while you looked at it.")),
    h("ul", {}, changes(before, now).map((line) => h("li", {}, pieces(line)))),
    h("p", {}, "Look at it again; then decide anew, or close this."),
  );
  if (now.status !== "needs_review") {
    submit.disabled = true;
    submit.remove();
    complain(box, `It is ${now.status} now: there is nothing to decide.`);
    return;
  }
  submit.textContent = `${word} what stands now`;
}

/** What changed between two versions of a task, in sentences. */
export function changes(before, now) {
  const found = [];
  const [a, b] = [before, now].map((task) => task.attempts[task.attempts.length - 1]);
  const differs = (x, y) => JSON.stringify(x) !== JSON.stringify(y);
  if (before.request_text !== now.request_text) found.push("The request's text is another one.");
  if (a?.attempt !== b?.attempt) found.push(`It is attempt ${b?.attempt} now, no longer attempt ${a?.attempt}.`);
  else if (differs(a?.dispatch, b?.dispatch)) found.push("What the executor was told is another text.");
  if (before.status !== now.status) found.push(`Its status is ${now.status} now, no longer ${before.status}.`);
  if (differs(a?.result, b?.result)) found.push(b?.result ? "There is another result." : "There is no result now.");
  if (a?.verdict && b?.verdict && a.verdict.decision !== b.verdict.decision) {
    found.push(`The reviewer says ${b.verdict.decision} now, no longer ${a.verdict.decision}.`);
  } else if (differs(a?.verdict, b?.verdict)) {
    found.push(b?.verdict ? "The verdict is another one." : "There is no verdict now.");
  }
  if (b?.decision) found.push(`${b.decision.by} ${b.decision.decision} it.`);
  if (!found.length) found.push("What is decided on has another digest.");
  return found;
}

/** Issues of a rejection: each points at a criterion and at operations of the work log. */
class IssueEditor {
  constructor(task, attempt) {
    this.rows = h("div", { class: "issueedits" });
    this.element = h(
      "fieldset",
      {},
      h("legend", {}, "Issues for the next attempt (optional)"),
      this.rows,
      h("button", { type: "button", class: "quiet", onclick: () => this._add() }, "Add an issue"),
    );
    this._about(task, attempt);
  }

  _about(task, attempt) {
    this.criteria = attempt?.dispatch?.acceptance_criteria ?? task.acceptance_criteria;
    this.operations = attempt?.result?.work_log ?? [];
    if (!this.criteria.length) this.element.hidden = true;
  }

  /** The task is another one now: what was written stays, what it points at is offered anew. */
  renew(task) {
    const drafts = this._drafts();
    this._about(task, task.attempts[task.attempts.length - 1]);
    clear(this.rows);
    for (const draft of drafts) this._add(draft);
  }

  _add(draft = null) {
    const criterion = h(
      "select",
      { "aria-label": "Criterion" },
      this.criteria.map((one) => h("option", { value: one.id }, pieces(`${one.id}  ${(one.text ?? "").slice(0, 60)}`).map(textOf))),
    );
    const severity = h("select", { "aria-label": "Severity" }, ["blocker", "major", "minor"].map((name) => h("option", { value: name }, name)));
    severity.value = draft?.severity ?? "major";
    if (draft && this.criteria.some((one) => one.id === draft.criterion_ref)) criterion.value = draft.criterion_ref;
    const text = h("textarea", { rows: "2", "aria-label": "What to change", placeholder: "What to change" });
    text.value = draft?.text ?? "";
    const operations = h(
      "div",
      { class: "oppicks", role: "group", "aria-label": "Operations" },
      this.operations.map((op) => {
        const box = h("input", { type: "checkbox", value: op.op_id });
        box.checked = Boolean(draft?.op_refs.includes(op.op_id));
        return h("label", { class: "oppick" }, box, said(op.op_id, "mono"), op.action, h("span", { class: "faint" }, said(op.target)));
      }),
    );
    const preselect = () => {
      if (operations.querySelector(":checked")) return;
      const about = this.operations.filter((op) => op.criterion_refs.includes(criterion.value) && op.action === "edit");
      const chosen = about[0] ?? this.operations.find((op) => op.criterion_refs.includes(criterion.value)) ?? this.operations[0];
      for (const box of operations.querySelectorAll("input")) box.checked = box.value === chosen?.op_id;
    };
    if (!draft) preselect();
    const row = h(
      "div",
      { class: "issueedit" },
      h("div", { class: "line" }, criterion, severity, h("button", { type: "button", class: "quiet", "aria-label": "Remove this issue", onclick: () => row.remove() }, "Remove")),
      text,
      this.operations.length > 0 && operations,
    );
    row._read = () => ({
      criterion_ref: criterion.value,
      severity: severity.value,
      text: text.value,
      op_refs: Array.from(operations.querySelectorAll(":checked"), (box) => box.value),
    });
    this.rows.append(row);
    if (!draft) text.focus();
  }

  _drafts() {
    return Array.from(this.rows.children, (row) => row._read());
  }

  read() {
    const drafts = this._drafts();
    for (const draft of drafts) {
      if (!draft.text.trim()) throw new Error("An issue says what to change: fill it in, or remove it.");
      if (this.operations.length && !draft.op_refs.length) throw new Error(`Choose the operations that the issue on ${draft.criterion_ref} is about.`);
    }
    return drafts;
  }
}

/** An option holds plain text only. */
const textOf = (node) => (typeof node === "string" ? node : node.textContent);
