// The list of all tasks: filters, counts, search; only the rows in view are drawn.

import { clear, h, said, tick, when } from "./dom.js";
import { VirtualList } from "./virtual.js";
import { SOURCES, STATUSES, badge, counted } from "./words.js";

const COLUMNS = [
  ["status", "Status"],
  ["task_id", "Task"],
  ["title", "Title"],
  ["source", "Source"],
  ["attempt", "Att."],
  ["updated_at", "Changed"],
];
const narrow = matchMedia("(max-width: 720px)");

export class ListView {
  title = "Tasks";

  constructor(tasks) {
    this.tasks = tasks;
    this.filter = { status: "", source: "", q: "" };
    this.sort = { by: "created_at", down: true };
    this.selected = null;
    this._build();
    tasks.on(() => this._refresh());
    narrow.addEventListener("change", () => this._refresh());
    setInterval(() => this.root.isConnected && tick(this.scroller), 10_000);
  }

  _build() {
    this.chips = h("div", { class: "chips", role: "group", "aria-label": "Status" });
    this.source = h(
      "select",
      { "aria-label": "Source", onchange: () => this._filterBy({ source: this.source.value }) },
      h("option", { value: "" }, "Any source"),
      SOURCES.map((source) => h("option", { value: source }, source)),
    );
    this.search = h("input", {
      type: "search",
      placeholder: "Search  ( / )",
      "aria-label": "Search in ids and titles",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this._filterBy({ q: this.search.value }),
      onkeydown: (event) => this._searchKey(event),
    });
    this.count = h("span", { class: "count", role: "status" });
    this.head = h("div", { class: "row head", role: "row", "aria-rowindex": "1" });
    this.scroller = h("div", { class: "scroller", role: "table", "aria-label": "Tasks", tabindex: "-1" });
    this.scroller.append(h("div", { class: "headgroup", role: "rowgroup" }, this.head));
    this.empty = h("div", { class: "empty" });
    this.root = h(
      "section",
      { class: "view list" },
      h("h1", { class: "offscreen" }, "Tasks"),
      h("div", { class: "bar" }, this.chips, h("div", { class: "grow" }), this.count, this.source, this.search),
      h("div", { class: "panel tall" }, this.scroller, this.empty),
    );
    this.list = new VirtualList({
      scroller: this.scroller,
      rowHeight: () => (narrow.matches ? 58 : 34),
      key: (summary) => summary.task_id,
      build: (summary) => this._row(summary),
      patch: (row, summary) => this._patch(row, summary),
    });
    this._drawHead();
    this._drawChips();
  }

  // ------------------------------------------------------------------------------------------- showing

  show(place, parameters) {
    for (const name of ["status", "source", "q"]) this.filter[name] = parameters.get(name) ?? "";
    this.source.value = this.filter.source;
    if (document.activeElement !== this.search) this.search.value = this.filter.q;
    place.append(this.root);
    if (this._top) this.scroller.scrollTop = this._top;
    this._refresh();
    if (this.selected) this._focus(this.list.indexOf(this.selected), false);
  }

  /** Where this list is, with its filters. */
  get address() {
    const query = new URLSearchParams(Object.entries(this.filter).filter(([, value]) => value)).toString();
    return query ? `#/?${query}` : "#/";
  }

  hide() {
    this._top = this.scroller.scrollTop;
    this.root.remove();
  }

  _filterBy(change) {
    Object.assign(this.filter, change);
    history.replaceState(null, "", this.address);
    this.scroller.scrollTop = 0;
    this._refresh();
  }

  _refresh() {
    if (!this.root.isConnected) return;
    const shown = this._filtered();
    this.list.anchored(() => (this.list.items = shown));
    this.scroller.setAttribute("aria-rowcount", String(shown.length + 1));
    this._drawChips();
    this._drawCount(shown.length);
  }

  _filtered() {
    const { status, source, q } = this.filter;
    const text = q.trim().toLowerCase();
    const found = [];
    for (const task of this.tasks.byId.values()) {
      if (status === "locked" ? !task.locked : status && task.status !== status) continue;
      if (source && task.source !== source) continue;
      if (text && !task.task_id.toLowerCase().includes(text) && !task.title.toLowerCase().includes(text)) continue;
      found.push(task);
    }
    return found.sort(this._order());
  }

  _order() {
    const { by, down } = this.sort;
    const sign = down ? -1 : 1;
    return (a, b) => {
      const [x, y] = [a[by], b[by]];
      if (x !== y) return x < y ? -sign : sign;
      return a.task_id < b.task_id ? -sign : sign;
    };
  }

  _drawCount(shown) {
    const { tasks } = this;
    const total = tasks.byId.size;
    const text = tasks.loading && !tasks.loaded ? `${total} so far…` : shown === total ? counted(total, "task") : `${shown} of ${total}`;
    if (this.count.textContent !== text) this.count.textContent = text;
    clear(this.empty).hidden = shown > 0;
    if (shown > 0) return;
    if (tasks.problem) {
      this.empty.append(
        h("p", {}, tasks.problem.detail ?? "The tasks could not be read."),
        h("button", { type: "button", onclick: () => tasks.load() }, "Try again"),
      );
    } else if (tasks.loading || !tasks.loaded) {
      this.empty.append(h("p", {}, "Reading tasks…"));
    } else if (total === 0) {
      this.empty.append(
        h("p", {}, "No tasks yet."),
        h("p", { class: "faint" }, "Put a JSON file into ssot/tasks/, or run ", h("code", {}, "kircerta task create"), "."),
      );
    } else {
      this.empty.append(
        h("p", {}, "No task fits these filters."),
        h("button", { type: "button", onclick: () => this._clearFilters() }, "Clear filters"),
      );
    }
  }

  _clearFilters() {
    this.search.value = "";
    this.source.value = "";
    this._filterBy({ status: "", source: "", q: "" });
  }

  _drawChips() {
    const counts = this.tasks.counts();
    const wanted = [["", "All", counts.all], ...Object.entries(STATUSES).map(([key, word]) => [key, word, counts[key]])];
    if (counts.locked || this.filter.status === "locked") wanted.push(["locked", "Locked", counts.locked]);
    while (this.chips.children.length > wanted.length) this.chips.lastChild.remove();
    wanted.forEach(([key, word, count], index) => {
      let chip = this.chips.children[index];
      if (!chip) {
        chip = h("button", { type: "button", class: "chip" }, h("i", { "aria-hidden": "true" }), h("span"), h("b"));
        chip.addEventListener("click", () => this._filterBy({ status: chip.dataset.key }));
        this.chips.append(chip);
      }
      chip.dataset.key = key;
      chip.className = `chip s-${key || "all"}`;
      chip.setAttribute("aria-pressed", String(this.filter.status === key));
      setText(chip.children[1], word);
      setText(chip.children[2], String(count));
    });
  }

  _drawHead() {
    clear(this.head).append(
      ...COLUMNS.map(([by, word]) => {
        const here = this.sort.by === by;
        const direction = here ? (this.sort.down ? "descending" : "ascending") : "none";
        const button = h("button", { type: "button", onclick: () => this._sortBy(by) }, word);
        if (here) button.append(h("span", { "aria-hidden": "true" }, this.sort.down ? " ↓" : " ↑"));
        return h("div", { role: "columnheader", "aria-sort": direction, class: `c-${by}` }, button);
      }),
    );
  }

  _sortBy(by) {
    const down = ["updated_at", "attempt"].includes(by);
    if (this.sort.by !== by) this.sort = { by, down };
    else if (this.sort.down === down) this.sort = { by, down: !down };
    else this.sort = { by: "created_at", down: true }; // the third time: as it was
    const column = COLUMNS.findIndex(([name]) => name === by);
    this._drawHead();
    this.head.children[column].firstChild.focus();
    this.scroller.scrollTop = 0;
    this._refresh();
  }

  // ---------------------------------------------------------------------------------------------- rows

  _row(task) {
    const link = h("a", { href: `#/tasks/${encodeURIComponent(task.task_id)}`, class: "rowlink" });
    const row = h(
      "div",
      { class: "row", role: "row" },
      h("div", { role: "cell", class: "c-status" }),
      h("div", { role: "cell", class: "c-task_id" }, said(task.task_id)),
      h("div", { role: "cell", class: "c-title" }, link),
      h("div", { role: "cell", class: "c-source" }, task.source),
      h("div", { role: "cell", class: "c-attempt" }),
      h("div", { role: "cell", class: "c-updated_at" }),
    );
    link.addEventListener("focus", () => (this.selected = task.task_id));
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a") && !getSelection().toString()) link.click();
    });
    return row;
  }

  _patch(row, task) {
    if (row._seq === task.seq && row._title === task.title) return;
    const fresh = row._seq !== undefined;
    row._seq = task.seq;
    row._title = task.title;
    const [status, , title, , attempt, changed] = row.children;
    clear(status).append(badge(task.stage));
    if (task.locked) status.append(h("span", { class: "lock", title: "Locked after too many rejections" }, "locked"));
    clear(title.firstChild).append(said(task.title || "untitled"));
    setText(attempt, task.attempt ? String(task.attempt) : "–");
    clear(changed).append(when(task.updated_at));
    if (fresh) flash(row);
  }

  // ---------------------------------------------------------------------------------------------- keys

  /** j and k, Home and End: along the list. Gives whether the key was meant for it. */
  key(event) {
    const last = this.list.items.length - 1;
    const here = this.selected ? this.list.indexOf(this.selected) : -1;
    if (event.key === "j") this._focus(Math.min(last, here + 1));
    else if (event.key === "k") this._focus(Math.max(0, here - 1));
    else if (event.key === "/") this.search.select(), this.search.focus();
    else return false;
    return true;
  }

  _focus(index, scroll = true) {
    if (index < 0 || index >= this.list.items.length) return;
    const row = this.list.reveal(index);
    if (scroll || row) row?.querySelector("a").focus({ preventScroll: true });
  }

  _searchKey(event) {
    if (event.key === "Escape" && this.search.value) {
      event.preventDefault();
      this.search.value = "";
      this._filterBy({ q: "" });
    } else if (["Enter", "ArrowDown"].includes(event.key) && this.list.items.length) {
      event.preventDefault();
      this._focus(0);
    }
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function flash(element) {
  element.classList.remove("flash");
  void element.offsetWidth;
  element.classList.add("flash");
}
