// The API's description as a page, made from openapi.json: routes by group, parameters, bodies, answers.
"use strict";

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** A description: of Markdown it has nothing but `names`. */
function prose(name, text) {
  const made = element(name);
  text.split("`").forEach((piece, at) => made.append(at % 2 ? element("code", piece) : piece));
  return made;
}

function table(heads, lines) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const text of heads) head.append(element("th", text));
  const body = made.createTBody();
  for (const line of lines) {
    const row = body.insertRow();
    for (const text of line) row.append(prose("td", text));
  }
  return made;
}

function typeOf(schema) {
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  return [].concat(schema.type || "any").join(" or ") + (schema.maximum ? `, at most ${schema.maximum}` : "");
}

function curl(method, path, operation, example) {
  const lines = [`curl -sS ${method === "GET" ? "" : "-X " + method + " "}"${location.origin}${path}"`];
  if ((operation.security || [{}]).every((need) => need.token)) lines.push('  -H "Authorization: Bearer $KIRCERTA_TOKEN"');
  if (example) {
    lines.push("  -H 'Content-Type: application/json'");
    lines.push(`  --data-binary '${JSON.stringify(example, null, 2).replaceAll("'", "'\\''")}'`);
  }
  return lines.join(" \\\n");
}

function describe(path, method, operation) {
  const box = element("details");
  const head = element("summary");
  const summary = prose("span", operation.summary);
  summary.className = "quiet";
  head.append(element("span", method, "method"), element("code", path), summary);
  box.append(head, prose("p", operation.description || ""));
  const parameters = operation.parameters || [];
  if (parameters.length) {
    const lines = parameters.map((p) => [p.name, p.in, typeOf(p.schema), p.description || ""]);
    box.append(element("h3", "Parameters"), table(["name", "in", "type", ""], lines));
  }
  const body = operation.requestBody && operation.requestBody.content["application/json"];
  const task = path.replace("{task_id}", "T-1").replace("{sha256}", "0".repeat(64));
  box.append(element("h3", "Try it"), element("pre", curl(method, task, operation, body && body.example)));
  const answers = Object.entries(operation.responses).map(([status, answer]) => [status, answer.description]);
  box.append(element("h3", "Answers"), table(["status", ""], answers));
  return box;
}

async function load() {
  const about = document.getElementById("about");
  const answer = await fetch("/openapi.json");
  const api = await answer.json();
  if (!answer.ok) throw new Error(api.detail);
  about.replaceChildren(...prose("p", api.info.description).childNodes);
  for (const tag of api.tags) {
    const card = element("div", undefined, "card");
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (operation.tags.includes(tag.name)) card.append(describe(path, method.toUpperCase(), operation));
      }
    }
    document.getElementById("routes").append(element("h2", tag.name), prose("p", tag.description), card);
  }
}

load().catch((error) => { document.getElementById("about").textContent = String(error.message || error); });
