// Shows the first tasks, and asks again every few seconds: a 304 costs next to nothing.
"use strict";

const EVERY_MS = 3000;
const rows = document.getElementById("tasks");
const note = document.getElementById("note");
const total = document.getElementById("total");
let seen = "";

function cell(row, text, className) {
  const made = row.insertCell();
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show(page) {
  rows.replaceChildren();
  for (const task of page.tasks) {
    const row = rows.insertRow();
    const link = document.createElement("a");
    link.href = "/api/tasks/" + encodeURIComponent(task.task_id);
    link.textContent = task.task_id;
    row.insertCell().append(link);
    cell(row, task.title);
    cell(row, task.locked ? task.status + " (locked)" : task.status, task.status);
    cell(row, task.attempt || "–", "quiet");
    cell(row, new Date(task.updated_at).toLocaleString(), "quiet");
  }
  total.textContent = page.total > page.tasks.length ? `${page.tasks.length} of ${page.total}` : `${page.total}`;
  note.hidden = page.tasks.length > 0;
  note.textContent = "No tasks yet: `kircerta task create --title …` makes one.";
}

async function load() {
  try {
    const answer = await fetch("/api/tasks?limit=100");
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail);
    if (answer.headers.get("etag") !== seen) show(body);
    seen = answer.headers.get("etag");
  } catch (error) {
    note.hidden = false;
    note.textContent = String(error.message || error);
  }
  setTimeout(load, EVERY_MS);
}

load();
