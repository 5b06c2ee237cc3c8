// A list of any length of which only the visible rows are drawn. Rows keep their nodes, so that focus stays where it is.

const SPARE = 6;

export class VirtualList {
  /**
   * @param scroller the element that scrolls
   * @param rowHeight gives a row's height in CSS pixels (it may depend on the width)
   * @param key of an item
   * @param build makes the row of an item; @param patch brings a row up to date
   */
  constructor({ scroller, rowHeight, key, build, patch, offset = 1 }) {
    Object.assign(this, { scroller, rowHeight, key, build, patch, offset });
    this.items = [];
    this.rows = new Map();
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.setAttribute("role", "rowgroup");
    scroller.append(this.space);
    this._drawSoon = () => {
      if (this._due) return;
      this._due = requestAnimationFrame(() => this.draw());
    };
    scroller.addEventListener("scroll", this._drawSoon, { passive: true });
    this._sizes = new ResizeObserver(this._drawSoon);
    this._sizes.observe(scroller);
  }

  set(items) {
    this.items = items;
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this._due);
    this._due = 0;
    const height = this.rowHeight();
    const total = `${this.items.length * height}px`;
    if (this.space.style.height !== total) this.space.style.height = total;
    const top = Math.max(0, this.scroller.scrollTop - this.space.offsetTop);
    const first = Math.max(0, Math.floor(top / height) - SPARE);
    const last = Math.min(this.items.length, Math.ceil((top + this.scroller.clientHeight) / height) + SPARE);
    this._keepOnly(first, last);
    let place = this.space.firstChild;
    for (let index = first; index < last; index++) place = this._draw(index, height, place);
  }

  /** Rows that left the window go, but the one with the focus stays. */
  _keepOnly(first, last) {
    const wanted = new Set();
    for (let index = first; index < last; index++) wanted.add(this.key(this.items[index]));
    for (const [key, row] of this.rows) {
      if (wanted.has(key) || (row.contains(document.activeElement) && this._has(key))) continue;
      row.remove();
      this.rows.delete(key);
    }
  }

  _has(key) {
    return this.items.some((item) => this.key(item) === key);
  }

  _draw(index, height, place) {
    const item = this.items[index];
    const key = this.key(item);
    let row = this.rows.get(key);
    if (!row) {
      row = this.build(item);
      this.rows.set(key, row);
    }
    this.patch(row, item);
    row.setAttribute("aria-rowindex", String(index + 1 + this.offset));
    row.style.transform = `translateY(${index * height}px)`;
    row.style.height = `${height}px`;
    if (row === place) return place.nextSibling;
    if (row.contains(document.activeElement)) {
      // Moving it would take the focus away: what stands before it goes behind, and comes back in its turn.
      while (place && place !== row) {
        const next = place.nextSibling;
        this.space.append(place);
        place = next;
      }
      return row.nextSibling;
    }
    this.space.insertBefore(row, place);
    return place;
  }

  indexOf(key) {
    return this.items.findIndex((item) => this.key(item) === key);
  }

  /** Bring an item into view and give its row. */
  reveal(index) {
    const height = this.rowHeight();
    const top = index * height + this.space.offsetTop;
    const header = this.space.offsetTop;
    const { scrollTop, clientHeight } = this.scroller;
    if (top - header < scrollTop) this.scroller.scrollTop = top - header;
    else if (top + height > scrollTop + clientHeight) this.scroller.scrollTop = top + height - clientHeight;
    this.draw();
    return this.rows.get(this.key(this.items[index]));
  }

  /** Keep the first visible row where it is while `change` replaces the items. */
  anchored(change) {
    const height = this.rowHeight();
    const top = this.scroller.scrollTop;
    const index = Math.floor(top / height);
    const anchor = top > 0 && this.items[index] ? this.key(this.items[index]) : null;
    change();
    if (anchor !== null) {
      const moved = this.indexOf(anchor);
      if (moved >= 0 && moved !== index) this.scroller.scrollTop = top + (moved - index) * height;
    }
    this.draw();
  }
}
