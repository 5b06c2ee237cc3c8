// Shows texts that differ: unified diffs file by file, and two texts that should be the same word for word.

import { add, h, pieces, said } from "./dom.js";
import { counted } from "./words.js";

const OPEN_LINES = 300; // larger files start folded
const PART = 1500; // lines drawn at once
const PAIRED = 100; // longer blocks are not compared line by line

/** The files of a unified diff: `{path, from, kind, added, removed, lines}`; a line is `[kind, old, new, text]`. */
export function parse(text) {
  const files = [];
  let file = null;
  let hunk = null;
  const begin = () => {
    file = { path: "", from: "", kind: "changed", added: 0, removed: 0, lines: [] };
    files.push(file);
    hunk = null;
  };
  for (const raw of text.split("\n")) {
    if (hunk && (hunk.old > 0 || hunk.new > 0)) {
      takeLine(file, hunk, raw);
    } else if (raw.startsWith("diff --git ")) {
      begin();
      const match = /^diff --git "?a\/(.*?)"? "?b\/(.*?)"?$/.exec(raw);
      if (match) [file.from, file.path] = [match[1], match[2]];
    } else if (raw.startsWith("--- ")) {
      if (!file || file.named || hunk) begin(); // notes of its own header do not end it
      file.named = true;
      const name = pathOf(raw.slice(4));
      if (name === null) file.kind = "added";
      else file.from = name;
    } else if (raw.startsWith("+++ ") && file) {
      const name = pathOf(raw.slice(4));
      if (name === null) file.kind = "deleted";
      else file.path = name;
      if (!file.path) file.path = file.from;
    } else if (raw.startsWith("@@ ") && file) {
      const match = /^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$/.exec(raw);
      if (!match) continue;
      hunk = { at: +match[1], to: +match[3], old: +(match[2] ?? 1), new: +(match[4] ?? 1) };
      file.lines.push(["hunk", null, null, raw]);
    } else if (file && raw.startsWith("\\")) {
      file.lines.push(["note", null, null, raw.slice(2)]);
    } else if (file && /^(new file|deleted file|rename |copy |old mode|new mode|similarity|Binary files|GIT binary)/.test(raw)) {
      if (raw.startsWith("new file")) file.kind = "added";
      if (raw.startsWith("deleted file")) file.kind = "deleted";
      if (raw.startsWith("rename from ")) [file.kind, file.from] = ["renamed", raw.slice(12)];
      if (raw.startsWith("rename to ")) file.path = raw.slice(10);
      file.lines.push(["note", null, null, raw]);
    }
  }
  return files;
}

function takeLine(file, hunk, raw) {
  const sign = raw[0] ?? " ";
  if (sign === "\\") {
    file.lines.push(["note", null, null, raw.slice(2)]);
  } else if (sign === "+") {
    file.lines.push(["added", null, hunk.to++, raw.slice(1)]);
    file.added++;
    hunk.new--;
  } else if (sign === "-") {
    file.lines.push(["removed", hunk.at++, null, raw.slice(1)]);
    file.removed++;
    hunk.old--;
  } else {
    file.lines.push(["same", hunk.at++, hunk.to++, raw.slice(1)]);
    hunk.old--;
    hunk.new--;
  }
}

function pathOf(text) {
  const name = text.split("\t")[0].replace(/^"(.*)"$/, "$1");
  return name === "/dev/null" ? null : name.replace(/^[ab]\//, "");
}

/** A unified diff, one fold a file. Files and hunks have anchors that begin with `anchor`, both counted from 1. */
export function diffView(text, anchor) {
  const files = parse(text);
  if (!files.length) return h("pre", { class: "code" }, pieces(text));
  const total = files.reduce((sum, file) => sum + file.lines.length, 0);
  return h(
    "div",
    { class: "diff" },
    files.map((file, index) => fileView(file, total <= OPEN_LINES * 3 ? file.lines.length <= OPEN_LINES : index === 0, `${anchor} file ${index + 1}`, `${anchor} hunk ${index + 1}`)),
  );
}

function fileView(file, open, anchor, hunkAnchor) {
  let hunks = 0;
  for (const line of file.lines) if (line[0] === "hunk") line[4] = `${hunkAnchor}.${++hunks}`;
  const name = file.kind === "renamed" ? `${file.from} → ${file.path}` : file.path || file.from || "?";
  const body = h("div", { class: `difflines ${file.lines.length > 400 ? "long" : ""}`, role: "table", "aria-label": "Changed lines", tabindex: "0" });
  const fold = h(
    "details",
    { class: "file", "data-anchor": anchor, tabindex: "-1" },
    h(
      "summary",
      {},
      said(name, "mono path"),
      file.kind !== "changed" && h("span", { class: "tag" }, file.kind),
      h("span", { class: "plus" }, `+${file.added}`),
      h("span", { class: "minus" }, `−${file.removed}`),
    ),
    body,
  );
  const fill = () => body.firstChild || drawLines(body, file.lines, 0);
  fold.addEventListener("toggle", () => fold.open && fill());
  if (open) {
    fold.open = true;
    fill();
  }
  return fold;
}

function drawLines(body, lines, from) {
  const upTo = Math.min(lines.length, from + PART);
  for (let index = from; index < upTo; index++) body.append(lineView(lines, index));
  if (upTo < lines.length) {
    const more = h("button", { type: "button", class: "more" }, `Show more (${counted(lines.length - upTo, "line")})`);
    more.addEventListener("click", () => (more.remove(), drawLines(body, lines, upTo)));
    body.append(more);
  }
}

const SIGNS = { added: "+", removed: "−", same: " " };

function lineView(lines, index) {
  const [kind, before, after, text, anchor] = lines[index];
  if (kind === "hunk" || kind === "note") return h("div", { class: `dl ${kind}`, role: "row", "data-anchor": anchor, tabindex: anchor ? "-1" : null }, h("span", { role: "cell" }, pieces(text)));
  const twin = counterpart(lines, index);
  const content = twin === null ? pieces(text) : marked(text, twin, kind === "added" ? "ins" : "del");
  return h(
    "div",
    { class: `dl ${kind}`, role: "row" },
    h("span", { class: "no", role: "cell", "data-no": before ?? "" }),
    h("span", { class: "no", role: "cell", "data-no": after ?? "" }),
    h("span", { class: "sign", role: "cell", "data-sign": SIGNS[kind], "aria-label": kind === "same" ? null : kind }),
    h("span", { class: "text", role: "cell" }, content),
  );
}

/** The line that this one replaces or is replaced by, where blocks of equal length face each other. */
function counterpart(lines, index) {
  const kind = lines[index][0];
  if (kind === "same") return null;
  let from = index;
  let upTo = index;
  while (from > 0 && lines[from - 1][0] === kind && upTo - from <= PAIRED) from--;
  while (upTo + 1 < lines.length && lines[upTo + 1][0] === kind && upTo - from <= PAIRED) upTo++;
  if (upTo - from > PAIRED) return null;
  const size = upTo - from + 1;
  const other = kind === "added" ? "removed" : "added";
  const start = kind === "added" ? from - size : upTo + 1;
  for (let at = start; at < start + size; at++) if (lines[at]?.[0] !== other) return null;
  if (lines[start - 1]?.[0] === other || lines[start + size]?.[0] === other) return null;
  return lines[start + index - from][3];
}

/** A text with the part marked that differs from its twin: between the common beginning and the common end. */
export function marked(text, twin, tag) {
  const [a, b] = [Array.from(text), Array.from(twin)];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  while (head > 0 && isWord(a[head - 1])) head--;
  while (tail > 0 && isWord(a[a.length - tail])) tail--;
  const middle = a.slice(head, a.length - tail).join("");
  if (head + tail < Math.min(a.length, b.length) / 4) return pieces(text); // nothing in common worth showing
  return [
    ...pieces(a.slice(0, head).join("")),
    middle ? h(tag, {}, pieces(middle)) : "",
    ...pieces(a.slice(a.length - tail).join("")),
  ];
}

const isWord = (character) => /[\p{L}\p{N}_]/u.test(character);

/** Two texts side by side that ought to be the same: `[told, echoed]` as nodes, with what differs marked. */
export function sideBySide(told, echoed) {
  if (told === echoed) return [pieces(told), pieces(echoed)];
  const pair = [marked(told, echoed, "del"), marked(echoed, told, "ins")];
  return pair.map((nodes) => (nodes.some((node) => node instanceof Element && /^(INS|DEL)$/.test(node.tagName)) ? nodes : [add(h("mark"), nodes)]));
}
