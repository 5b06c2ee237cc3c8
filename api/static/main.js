// The dashboard: one link to the log, four views and a task's page, and the keys.

import { lastSeq } from "./ask.js";
import { ActivityView } from "./activity.js";
import { AgentsView } from "./agents.js";
import { Alarms } from "./alarms.js";
import { clear, dialog, h, said, toast } from "./dom.js";
import { Link } from "./link.js";
import { ListView } from "./list.js";
import { ProjectsView } from "./projects.js";
import { Session, tokenFromAddress } from "./session.js";
import { TaskView } from "./task.js";
import { Tasks } from "./tasks.js";

const token = tokenFromAddress();

const session = new Session();
const tasks = new Tasks();
const link = new Link();
const views = {
  list: new ListView(tasks),
  task: new TaskView(tasks, session, () => views.list.address),
  activity: new ActivityView(link),
  agents: new AgentsView(tasks, link),
  projects: new ProjectsView(),
};
const alarms = new Alarms(document.getElementById("alarms"));
const place = document.getElementById("view");
let current = null;

// ----------------------------------------------------------------------------------------------- address

function route() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const parameters = new URLSearchParams(query ?? "");
  const task = /^\/tasks\/([^/]+)$/.exec(path);
  const before = current;
  if (task) current = views.task;
  else current = { "/activity": views.activity, "/agents": views.agents, "/projects": views.projects }[path] ?? views.list;
  if (before && before !== current) before.hide();
  current.show(place, task ? decoded(task[1]) : parameters);
  if (before && before !== current && !place.contains(document.activeElement)) place.focus({ preventScroll: true });
  if (before !== current && current === views.task) scrollTo(0, 0);
  for (const anchor of document.querySelectorAll("nav a[data-view]")) {
    const here = views[anchor.dataset.view] === current || (anchor.dataset.view === "list" && current === views.task);
    if (here) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  title();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function title() {
  const waiting = tasks.counts().needs_review;
  const text = `${waiting ? `(${waiting}) ` : ""}${current?.title ?? ""} · kircerta`;
  if (document.title !== text) document.title = text;
}

// --------------------------------------------------------------------------------------- light, session

const LIGHTS = { live: "Live", "catching up": "Catching up", lost: "Lost", connecting: "Connecting" };

function drawLight() {
  const light = document.getElementById("light");
  light.dataset.state = link.state.replace(" ", "-");
  light.dataset.leads = link.leads;
  light.lastElementChild.textContent = LIGHTS[link.state];
  light.title = link.state === "lost" ? `Not live: ${link.why}. It is tried again.` : link.leads ? "This tab holds the connection" : "Shared with another tab";
}

function drawSession() {
  const button = document.getElementById("who");
  clear(button);
  if (session.sub === null) button.append("Sign in");
  else button.append(said(session.sub), h("span", { class: "faint wideonly" }, session.roles.join(", ")));
}

// ------------------------------------------------------------------------------------------ theme, keys

const THEMES = ["auto", "light", "dark"];
let theme = 0;

function turnTheme() {
  theme = (theme + 1) % THEMES.length;
  const name = THEMES[theme];
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  document.getElementById("theme").setAttribute("aria-label", `Colours: ${name}`);
  toast(`Colours: ${name}`);
}

const KEYS = [
  ["1 2 3 4", "tasks, activity, agents, projects"],
  ["/", "search"],
  ["j k", "down and up the list"],
  ["Enter", "open"],
  ["Esc", "back to the list"],
  ["a r u", "approve, reject, unlock (on a task's page)"],
  ["p", "pause the activity"],
  ["t", "light or dark"],
  ["?", "these keys"],
];

function tellKeys() {
  dialog("Keys", h("dl", { class: "keys" }, KEYS.map(([keys, what]) => [h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, what)])));
}

/** What has no room at the top of a phone. */
function tellMore() {
  const links = h("p", { class: "more" }, h("a", { href: "/reports/" }, "Reports"), h("a", { href: "/docs" }, "API"));
  dialog("More", [links, h("button", { type: "button", onclick: turnTheme }, "Light or dark")]);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (target.closest("input, textarea, select")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const address = { 1: "#/", 2: "#/activity", 3: "#/agents", 4: "#/projects" }[event.key];
  if (address) location.hash = address;
  else if (event.key === "?") tellKeys();
  else if (event.key === "t") turnTheme();
  else if (!current.key(event)) return;
  event.preventDefault();
}

// ------------------------------------------------------------------------------------------------ start

let started = false;

/** Where the log ends is asked before anything is read: what is read is then newer than the link's beginning. */
async function begin() {
  if (started) return;
  try {
    link.start(await lastSeq());
    started = true;
  } catch (error) {
    link.why = error.detail ?? "the server cannot be reached";
    link.state = "lost";
    tasks.problem = error;
    tasks.loading = false;
    drawLight();
    views.list._refresh();
    // Refusals are counted in the log: who is not signed in is not tried again and again.
    if ([401, 403].includes(error.status)) session.ask();
    else setTimeout(begin, 2000);
    return;
  }
  drawLight();
  tasks.load();
  alarms.read();
  if (current !== views.list) current.reset?.();
}

link.on("state", drawLight);
link.on("event", (event) => {
  tasks.apply(event);
  for (const view of [views.task, views.activity, views.agents, views.projects, alarms]) view.apply(event);
});
link.on("reset", () => {
  tasks.reload();
  for (const view of [views.task, views.activity, views.agents, views.projects, alarms]) view.reset();
});
tasks.on(title);
session.on(() => {
  drawSession();
  if (!started) begin();
  else link.again();
  if (started && tasks.problem) tasks.load();
});
addEventListener("hashchange", () => {
  const linked = tokenFromAddress();
  if (linked) signIn(linked);
  route();
});
addEventListener("keydown", onKey);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  place.focus();
});
document.getElementById("theme").addEventListener("click", turnTheme);
document.getElementById("keys").addEventListener("click", tellKeys);
document.getElementById("more").addEventListener("click", tellMore);
document.getElementById("who").addEventListener("click", () => session.tell());

async function signIn(given) {
  try {
    await session.signIn(given);
    toast(`Signed in as ${session.sub}`, "good");
  } catch (error) {
    toast(`Could not sign in: ${error.detail ?? error.message}`, "bad");
  }
}

drawSession();
route();
if (token) await signIn(token);
else await session.read();
await begin();
