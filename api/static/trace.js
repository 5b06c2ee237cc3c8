// The trace of a task: each criterion's operations, hunks and issues, and what the next attempt did about them.

import { h, said } from "./dom.js";
import { counted } from "./words.js";

const MANY = 8; // links shown at once in a cell
const ACTS = new Set(["edit", "run", "test"]); // reading and noting may well be for no criterion

/** The section's content. `jump(text, anchor, class)` makes a link to a place on the page, `fold` a fold that remembers. */
export function traceView(trace, jump, fold) {
  const delivered = trace.attempts.filter((attempt) => attempt.delivered).reverse();
  return h(
    "section",
    { class: "panel trace" },
    h("h2", {}, "Trace", h("span", { class: "faint" }, "from the criteria to the answers")),
    delivered.map((attempt, index) =>
      fold(
        `trace ${attempt.attempt}`,
        [h("span", { class: "h3" }, `Attempt ${attempt.attempt}`), h("span", { class: "faint small" }, summary(attempt))],
        () => h("div", { class: "body" }, gaps(attempt), table(attempt, jump, index === 0 && trace.waits)),
        index === 0,
      ),
    ),
  );
}

/** The figures in one line. */
function summary({ coverage, stage }) {
  const { criteria } = coverage;
  const parts = [
    `${coverage.criteria_with_operation} of ${counted(criteria, "criterion", "criteria")} with operations`,
    `${coverage.criteria_with_evidence} run or tested`,
    `${coverage.criteria_with_hunk} with hunks`,
  ];
  if (coverage.issues) parts.push(counted(coverage.issues, "issue") + (["rejected", "unlanded"].includes(stage) ? `, ${coverage.issues_answered} answered` : ""));
  return parts.join(" · ");
}

/** What leads nowhere: worth a look before somebody approves. */
function gaps(attempt) {
  const { coverage } = attempt;
  const strays = strayOperations(attempt).length;
  const found = [
    attempt.problem,
    coverage.criteria > coverage.criteria_with_operation && `${coverage.criteria - coverage.criteria_with_operation} of the criteria: no operation names them`,
    strays && `${counted(strays, "operation")} for no criterion`,
    coverage.edits_without_hunk && `${counted(coverage.edits_without_hunk, "edit")} of files that the diff does not change`,
    coverage.hunks_without_operation && `${counted(coverage.hunks_without_operation, "hunk")} that no operation accounts for`,
  ].filter(Boolean);
  return found.length > 0 && h("ul", { class: "gaps" }, found.map((text) => h("li", {}, said(text))));
}

const COLUMNS = ["Criterion", "Operations", "Hunks", "Issues", "Next attempt"];

function table(attempt, jump, waits) {
  return h(
    "div",
    { class: "wide" },
    h(
      "table",
      { class: "matrix" },
      h("thead", {}, h("tr", {}, COLUMNS.map((word) => h("th", { scope: "col" }, word)))),
      h("tbody", {}, attempt.criteria.map((row) => line(attempt, row, jump, waits)), strays(attempt, jump)),
    ),
  );
}

function line(attempt, row, jump, waits) {
  const n = attempt.attempt;
  const hunks = new Map(attempt.hunks.map((hunk) => [hunk.hunk_id, hunk]));
  const operations = new Map(attempt.operations.map((op) => [op.op_id, op]));
  const issues = attempt.issues.filter((issue) => issue.criterion_ref === row.criterion_ref);
  const answers = new Map(issues.filter((issue) => issue.answer).map((issue) => [issue.answer.attempt, issue.answer.operations]));
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, jump(row.criterion_ref, `criterion ${row.criterion_ref}`), h("span", { class: "excerpt" }, said((row.text ?? "").slice(0, 140)))),
    cell("Operations", row.operations.map((id) => jump(opText(operations.get(id)), `${n} op ${id}`, opClass(operations.get(id)))), "no operation"),
    cell("Hunks", row.hunks.map((id) => hunkLink(hunks.get(id), n, jump)), "no hunk"),
    cell("Issues", issues.map((issue) => jump(issue.issue_id, `${n} issue ${issue.issue_id}`, `sev-${issue.severity}`)), "none"),
    cell(
      "Next attempt",
      [...answers].map(([next, ids]) => (ids.length ? ids.map((id) => jump(`#${next} ${id}`, `${next} op ${id}`)) : h("span", { class: "faint" }, `#${next}: nothing for it`))).flat(),
      issues.length && ["rejected", "unlanded"].includes(attempt.stage) ? (waits ? "waits to be dispatched again" : "not dispatched again") : "",
    ),
  );
}

/** Hunks that no operation, and operations that no criterion accounts for. */
function strays(attempt, jump) {
  const n = attempt.attempt;
  const hunks = attempt.hunks.filter((hunk) => !hunk.operations.length);
  const operations = strayOperations(attempt);
  if (!hunks.length && !operations.length) return null;
  return h(
    "tr",
    { class: "stray" },
    h("th", { scope: "row" }, h("span", { class: "faint" }, "Belongs to none")),
    cell("Operations", operations.map((op) => jump(opText(op), `${n} op ${op.op_id}`, opClass(op))), ""),
    cell("Hunks", hunks.map((hunk) => hunkLink(hunk, n, jump)), ""),
    cell("Issues", [], ""),
    cell("Next attempt", [], ""),
  );
}

function strayOperations(attempt) {
  const known = new Set(attempt.criteria.map((row) => row.criterion_ref));
  return attempt.operations.filter((op) => ACTS.has(op.action) && !op.criterion_refs.some((ref) => known.has(ref)));
}

function cell(label, links, nothing) {
  const shown = links.slice(0, MANY);
  if (links.length > MANY) {
    const more = h("button", { type: "button", class: "jump", onclick: () => more.replaceWith(...links.slice(MANY)) }, `${links.length - MANY} more`);
    shown.push(more);
  }
  const empty = !links.length;
  return h("td", { "data-label": label, class: empty && !nothing ? "void" : null }, h("div", { class: "links" }, empty ? h("span", { class: "faint" }, nothing) : shown));
}

const opText = (op) => `${op.op_id} ${op.action}`;
const opClass = (op) => (op.exit_code ? "failed" : "");

function hunkLink(hunk, n, jump) {
  const name = hunk.path.split("/").at(-1);
  const link = hunk.hunk ? `${name} ${hunk.header.match(/\+(\d+)/)?.[1] ?? ""}` : name;
  const made = jump(link, hunk.hunk ? `${n} hunk ${hunk.file}.${hunk.hunk}` : `${n} file ${hunk.file}`);
  made.title = `${hunk.path} ${hunk.header}`;
  return made;
}
