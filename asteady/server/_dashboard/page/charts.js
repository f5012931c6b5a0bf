// Charts as SVG, each with its numbers as a table for those who do not see it.
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52, RIGHT = 8, TOP = 8, BOTTOM = 22;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/* `columns` have {name, number, show}; the first one heads its row. Built from text alone: nothing
   that comes from a prompt becomes markup. */
export function table(columns, rows, { caption, wide = false }) {
  // The roles are said again since a table that is drawn as a list loses them.
  const head = element("tr", { role: "row" });
  for (const column of columns) {
    const cell = element("th", { scope: "col", role: "columnheader" }, column.name);
    if (column.number) cell.className = "number";
    head.append(cell);
  }
  const body = element("tbody", { role: "rowgroup" });
  for (const row of rows) {
    const line = element("tr", { role: "row" });
    columns.forEach((column, at) => {
      const first = at === 0;
      const cell = element(first ? "th" : "td", { role: first ? "rowheader" : "cell", "data-name": column.name });
      if (first) cell.scope = "row";
      cell.className = column.number ? "number" : "text";
      cell.append(column.show(row));
      line.append(cell);
    });
    body.append(line);
  }
  const made = element("table", { role: "table" }, element("caption", { class: "hidden" }, caption));
  if (wide) made.className = "wide";
  made.append(element("thead", { role: "rowgroup" }, head), body);
  return made;
}

/* The smallest of `steps`, or of 1, 2, 4, 6, 8, 10, 20, ..., that is at least as large. */
function roundUp(value, steps = []) {
  const ten = 10 ** Math.floor(Math.log10(value));
  return [...steps, ...[1, 2, 4, 6, 8, 10].map((step) => step * ten)].find((step) => step >= value * (1 - 1e-9));
}

export class Chart {
  /* `series` are [{name, values}], of which each value is a number or null for none. `show` makes
     a value a text, `where` a place on the horizontal axis. */
  constructor(figure, { title, unit, show, where, bars = false, most, least = 1, steps }) {
    Object.assign(this, { title, show, where, bars, most, least, steps });
    this.name = element("span", {}, title);
    this.read = element("span", { class: "read" });
    this.svg = drawn("svg", { role: "img", "aria-label": title });
    this.key = element("p", { class: "key" });
    this.rows = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
    this.details = element("details", {}, element("summary", {}, "As a table"), this.rows);
    figure.append(element("figcaption", {}, this.name, this.read), this.svg, this.key, this.details);
    this.details.addEventListener("toggle", () => this.tabulate());
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.xs = [];
    this.series = [];
    this.summary = "";
  }

  /* `ticks` are [x, text]; `mark` is {x, text}; `xs` ascend. */
  update({ xs, series, from, to, ticks, summary, mark = null, scale = (x) => x }) {
    Object.assign(this, { xs, series, from, to, ticks, summary, mark, scale });
    if (!this.cursor) this.read.textContent = summary;
    this.svg.setAttribute("aria-label", `${this.title}: ${summary}`);
    this.draw();
    this.tabulate();
  }

  at(x) {
    const { from, to, scale, width } = this;
    const share = (scale(x) - scale(from)) / (scale(to) - scale(from) || 1);
    return LEFT + share * (width - LEFT - RIGHT);
  }

  draw() {
    this.width = this.svg.clientWidth;
    const height = this.svg.clientHeight;
    if (!this.width || !this.ticks) return;
    const { width, svg } = this;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const values = this.series.flatMap((each) => each.values).filter((value) => value !== null);
    const top = this.most ?? roundUp(Math.max(this.least, ...values), this.steps);
    const y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      parts.push(drawn("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(top * share), y2: y(top * share) }));
      parts.push(drawn("text", { x: LEFT - 7, y: y(top * share) + 4, "text-anchor": "end" }, this.show(top * share)));
    }
    let before = -Infinity;
    for (const [x, text] of this.ticks) {
      const at = this.at(x);
      if (at < before + 52) continue;
      before = at;
      const anchor = at < LEFT + 20 ? "start" : at > width - RIGHT - 20 ? "end" : "middle";
      parts.push(drawn("text", { x: at, y: height - 5, "text-anchor": anchor }, text));
    }
    this.series.forEach((each, at) => parts.push(...(this.bars ? this.drawBars(each, y) : this.drawLine(each, y, at))));
    if (!values.length) {
      parts.push(drawn("text", { x: (LEFT + width - RIGHT) / 2, y: y(top / 2) - 8, "text-anchor": "middle" }, "Nothing yet"));
    }
    if (this.mark) {
      const at = this.at(this.mark.x);
      const left = at > width * 0.6;
      parts.push(drawn("line", { class: "mark", x1: at, x2: at, y1: TOP, y2: height - BOTTOM }));
      parts.push(drawn("text", { class: "marked", x: at + (left ? -6 : 6), y: TOP + 12, "text-anchor": left ? "end" : "start" }, this.mark.text));
    }
    this.line = drawn("line", { class: "cursor", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
    svg.replaceChildren(...parts, this.line);
    if (this.cursor) this.point(this.cursor);
    this.key.replaceChildren(...(this.series.length > 1 ? this.series.map((each) => element("span", {}, each.name)) : []));
  }

  drawLine({ values }, y, at) {
    const parts = [];
    const second = at ? " second" : "";
    let run = [];
    const end = () => {
      if (run.length === 1) parts.push(drawn("circle", { class: `dotted${second}`, cx: run[0][0], cy: run[0][1], r: 3 }));
      if (run.length > 1) {
        const points = run.map(([x, height]) => `${x.toFixed(1)} ${height.toFixed(1)}`).join("L");
        if (!at) parts.push(drawn("path", { class: "under", d: `M${points}V${y(0)}H${run[0][0].toFixed(1)}Z` }));
        parts.push(drawn("path", { class: `series${second}`, d: `M${points}` }));
      }
      run = [];
    };
    values.forEach((value, index) => (value === null ? end() : run.push([this.at(this.xs[index]), y(value)])));
    end();
    return parts;
  }

  drawBars({ values }, y) {
    const wide = Math.max(1.5, (this.width - LEFT - RIGHT) / Math.max(1, values.length) - 1.5);
    return values.flatMap((value, index) => {
      if (!value) return [];
      const tall = Math.max(1, y(0) - y(value));
      return [drawn("rect", { class: "bar", x: this.at(this.xs[index]) - wide / 2, y: y(0) - tall, width: wide, height: tall, rx: Math.min(2, wide / 3) })];
    });
  }

  point(event) {
    this.cursor = event;
    const bounds = this.svg.getBoundingClientRect();
    if (!event || !this.xs.length || !this.line) {
      this.read.textContent = this.summary;
      this.line?.setAttribute("visibility", "hidden");
      return;
    }
    const x = event.clientX - bounds.left;
    let nearest = 0;
    this.xs.forEach((each, index) => {
      if (Math.abs(this.at(each) - x) < Math.abs(this.at(this.xs[nearest]) - x)) nearest = index;
    });
    const at = this.at(this.xs[nearest]);
    this.line.setAttribute("x1", at);
    this.line.setAttribute("x2", at);
    this.line.setAttribute("visibility", "visible");
    const texts = this.series.map(({ name, values }) => {
      const text = values[nearest] === null ? "–" : this.show(values[nearest], true);
      return this.series.length > 1 ? `${text} ${name}` : text;
    });
    this.read.textContent = `${this.where(this.xs[nearest])}  ${texts.join(", ")}`;
  }

  tabulate() {
    if (!this.details.open) return;
    const columns = [
      { name: this.place ?? "Time", show: (row) => this.where(this.xs[row]) },
      ...this.series.map(({ name, values }) => ({
        name,
        number: true,
        show: (row) => (values[row] === null ? "–" : this.show(values[row], true)),
      })),
    ];
    const rows = this.xs.map((_, row) => row).filter((row) => this.series.some(({ values }) => values[row] !== null));
    const { scrollTop } = this.rows;
    this.rows.replaceChildren(table(columns, rows.reverse(), { caption: this.title }));
    this.rows.scrollTop = scrollTop;
  }
}
