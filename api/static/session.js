// Who is signed in. The token goes to the server once and stays in a cookie that no script can read.

import { get, send } from "./ask.js";
import { dialog, h, said, span, toast } from "./dom.js";

export class Session {
  constructor() {
    this.sub = null;
    this.roles = [];
    this.exp = null;
    this.configured = true;
    this._listeners = new Set();
    this._channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("kircerta-session");
    if (this._channel) this._channel.onmessage = () => this.read();
  }

  on(listener) {
    this._listeners.add(listener);
  }

  may(role) {
    return this.sub !== null && (this.roles.includes(role) || this.roles.includes("admin"));
  }

  _take(found) {
    const changed = found.sub !== this.sub || String(found.roles) !== String(this.roles);
    Object.assign(this, { sub: found.sub, roles: found.roles, exp: found.exp, configured: found.configured });
    clearTimeout(this._expiry);
    if (this.exp) {
      const left = Date.parse(this.exp) - Date.now();
      if (left < 2 ** 31) this._expiry = setTimeout(() => this.read(), Math.max(1000, left + 500));
    }
    if (changed) for (const listener of this._listeners) listener();
    return changed;
  }

  async read() {
    try {
      this._take(await get("/session"));
    } catch {
      // Unreachable: what was known stays; the light tells it.
    }
  }

  async signIn(token) {
    this._take(await send("POST", "/session", { token }));
    this._channel?.postMessage("changed");
  }

  async signOut() {
    this._take(await send("DELETE", "/session"));
    this._channel?.postMessage("changed");
  }

  /** Ask for a token. */
  ask() {
    if (document.querySelector("dialog.signin")) return;
    const token = h("textarea", {
      name: "token",
      rows: "4",
      autocomplete: "off",
      spellcheck: "false",
      class: "mono",
      "aria-label": "Token",
      placeholder: "eyJ…",
    });
    const body = [
      this.configured
        ? h("p", {}, "Paste a token. ", h("code", {}, "kircerta token --sub you --role approver"), " prints one.")
        : h("p", { class: "notice warn" }, "This server has no key (KIRCERTA_JWT_SECRET): nobody can sign in."),
      h("label", {}, "Token", token),
      h("p", { class: "faint small" }, "It is kept in a cookie that scripts and other sites cannot read, until it expires."),
    ];
    const submit = h("button", { type: "submit", class: "primary", disabled: !this.configured }, "Sign in");
    const shown = dialog("Sign in", body, [submit], async (box) => {
      if (!token.value.trim()) throw new Error("Paste a token first.");
      await this.signIn(token.value.trim());
      box.close();
      toast(`Signed in as ${this.sub}`, "good");
    });
    // A token is one line: Enter has nothing else to do here.
    token.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      if (!event.ctrlKey && !event.metaKey) token.form.requestSubmit(submit);
    });
    shown.classList.add("signin");
    token.focus();
  }

  /** Tell who is signed in, and offer to sign out. */
  tell() {
    if (this.sub === null) {
      this.ask();
      return;
    }
    const left = (Date.parse(this.exp) - Date.now()) / 1000;
    const body = [
      h("p", {}, "Signed in as ", h("strong", {}, said(this.sub)), "."),
      h("p", {}, this.roles.length ? `Roles: ${this.roles.join(", ")}` : "No roles."),
      h("p", { class: "faint" }, `For another ${span(Math.max(0, left))}.`),
    ];
    const out = h("button", { type: "submit", class: "primary" }, "Sign out");
    dialog("Session", body, [out], async (box) => {
      await this.signOut();
      box.close();
      toast("Signed out");
    });
  }
}

/** The token of a link like `/#token=…`; it leaves the address bar, and the history, at once. */
export function tokenFromAddress() {
  const match = /^#token=([^&]*)/.exec(location.hash);
  if (!match) return null;
  history.replaceState(null, "", `${location.pathname}#/`);
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return match[1];
  }
}
