// Builds the page. Text is only ever set as text: nothing here, or anywhere else, parses markup.

/** An element with attributes, listeners (`onclick` …) and children (nodes, texts of our own, lists of them). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : String(value));
  }
  return add(element, children);
}

export function add(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

// What would change how other text reads, or hide: controls, bidi overrides, invisible letters, tags.
// Marks piled up on one letter hide the lines around it: those beyond the sixth are counted, not drawn.
// Joiners (U+200C, U+200D) and variation selectors of emoji stay: writing systems need them.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]|(?<=\p{M}{6})\p{M}+/gu;

function unseen(character) {
  if (/^\p{M}+$/u.test(character) && !/^[\u{e0000}-\u{e0fff}\u17b4\u17b5]/u.test(character)) {
    return h("span", { class: "unseen", title: "Marks piled up on one letter" }, `‹+${Array.from(character).length} marks›`);
  }
  const code = character.codePointAt(0);
  const name = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  const shown = code < 0x20 ? String.fromCodePoint(0x2400 + code) : code === 0x7f ? "\u2421" : `‹${name}›`;
  return h("span", { class: "unseen", title: `${name}, a character that cannot be seen` }, shown);
}

/** Somebody else's text as nodes: what cannot be seen is made visible. */
export function pieces(text) {
  const found = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > from) found.push(text.slice(from, match.index));
    found.push(unseen(match[0]));
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push(text.slice(from));
  return found;
}

/** Somebody else's text in one line, kept apart from the direction of what stands around it. */
export function said(text, className = "") {
  const line = String(text ?? "").replace(/\r\n|[\n\r]/g, " ⏎ ");
  return h("bdi", { class: `said ${className}` }, pieces(line));
}

/** Somebody else's text with its line breaks. */
export function prose(text, className = "") {
  return h("div", { class: `prose ${className}`, dir: "auto" }, pieces(String(text ?? "").replaceAll("\r\n", "\n")));
}

export function clear(element) {
  element.replaceChildren();
  return element;
}

/** A time that reads as "3 min ago" and tells the exact moment on hover. `tick` keeps it true. */
export function when(timestamp, prefix = "") {
  const element = h("time", { datetime: timestamp, title: exact(timestamp) });
  element.dataset.prefix = prefix;
  element.textContent = prefix + ago(timestamp);
  return element;
}

export function tick(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const text = (element.dataset.prefix ?? "") + ago(element.dateTime);
    if (element.textContent !== text) element.textContent = text;
  }
}

export function exact(timestamp) {
  const moment = new Date(timestamp);
  return Number.isNaN(moment.getTime()) ? String(timestamp) : `${moment.toLocaleString()} (${timestamp})`;
}

export function ago(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1000;
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < -5) return `in ${span(-seconds)}`;
  return seconds < 5 ? "now" : `${span(seconds)} ago`;
}

export function span(seconds) {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  const days = Math.floor(s / 86400);
  return days < 60 ? `${days} d` : days < 730 ? `${Math.floor(days / 30)} mo` : `${Math.floor(days / 365)} y`;
}

/** The clock time of a moment, with seconds. */
export function clock(timestamp) {
  const moment = new Date(timestamp);
  if (Number.isNaN(moment.getTime())) return "?";
  return moment.toLocaleTimeString([], { hour12: false });
}

/** A modal dialog around a form. `submit` gets the dialog; whoever throws keeps it open. Focus goes back by itself. */
export function dialog(title, body, buttons = [], onSubmit = null) {
  const name = `d${Math.random().toString(36).slice(2)}`;
  const form = h(
    "form",
    { novalidate: true },
    h("h2", { id: name }, title),
    body,
    h("div", { class: "error", role: "alert" }),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", class: "quiet", onclick: () => shown.close() }, "Close"),
      buttons,
    ),
  );
  const shown = h("dialog", { "aria-labelledby": name, onclose: () => shown.remove() }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!onSubmit || form.dataset.busy) return;
    form.dataset.busy = "1";
    try {
      await onSubmit(shown, event.submitter);
    } catch (error) {
      complain(shown, error.detail ?? error.message);
    } finally {
      delete form.dataset.busy;
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("input", () => clear(form.querySelector(".error"))); // what was wrong is being mended
  document.body.append(shown);
  shown.showModal();
  return shown;
}

export function complain(shown, text) {
  clear(shown.querySelector(".error")).append(...pieces(text));
}

/** Tell something in passing; read out by screen readers. */
export function toast(text, kind = "") {
  const place = document.getElementById("toasts");
  const note = h("div", { class: `toast ${kind}` }, pieces(text));
  place.append(note);
  setTimeout(() => note.remove(), 4000);
}

export async function copy(text, button) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyBySelection(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Could not copy";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/** Without a secure context there is no clipboard object. */
function copyBySelection(text) {
  const area = h("textarea", { class: "offscreen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
