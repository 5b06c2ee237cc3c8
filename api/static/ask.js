// Asks the server. Every refusal is a Problem with the server's own words (RFC 9457).

export class Problem extends Error {
  constructor(status, code, detail, facts = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.facts = facts;
  }

  static async of(response) {
    let body = {};
    try {
      body = await response.json();
    } catch {
      // Not one of ours: a proxy's page, perhaps.
    }
    const detail = body.detail ?? `the server answered ${response.status}`;
    return new Problem(response.status, body.code ?? "unknown", detail, body);
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "the server cannot be reached");
  }
  if (!response.ok) throw await Problem.of(response);
  return response.json();
}

export function get(path, signal) {
  return ask(path, { signal, cache: "no-cache" });
}

export function send(method, path, body, key) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  return ask(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
}

/** A key under which a POST that may have got lost is sent again without being done twice. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const taskPath = (taskId) => `/api/tasks/${encodeURIComponent(taskId)}`;

/** Where the log ends now. Also says so while the server is not ready for writes. */
export async function lastSeq(signal) {
  return (await readiness(signal)).last_seq;
}

/** How the server is, and which alarms stand. It tells so while it is not ready for writes, too. */
export async function readiness(signal) {
  const response = await fetch("/readyz", { credentials: "same-origin", cache: "no-store", signal });
  const body = await response.json().catch(() => ({}));
  if (typeof body.last_seq === "number") return body;
  throw new Problem(response.status, body.code ?? "unknown", body.detail ?? "the server is not ready", body);
}

/** The events behind `after`, oldest first, page after page; at most `pages` requests. */
export async function* events(query, pages = 50) {
  let after = query.after ?? 0;
  for (let page = 0; page < pages; page++) {
    const asked = new URLSearchParams({ ...query, after: String(after), limit: "1000" });
    const found = await get(`/api/audit?${asked}`);
    yield* found.events;
    if (found.next_after === null) return;
    after = found.next_after;
  }
}
