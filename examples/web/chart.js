// Small line charts in SVG: a curve each of FAM and plain training.

const WIDTH = 340;
const HEIGHT = 190;
const EDGE = { left: 40, right: 8, top: 8, bottom: 22 };
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(9)));
}

export class Chart {
  /** `names` says what is drawn, `format` how a value is written; `range` fixes the axis. */
  constructor(figure, { label, format, range }) {
    Object.assign(this, { label, format, range });
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    figure.append(this.svg, this.legend);
    this.draw({}, 1);
  }

  /** `curves`: name → [[step, value], …]. */
  draw(curves, steps) {
    const drawn = Object.entries(curves).filter(([, points]) => points.length);
    const values = drawn.flatMap(([, points]) => points.map(([, value]) => value));
    const [low, high] = this.range ?? [0, Math.max(...values, 1e-9) * 1.05];
    const x = (step) => EDGE.left + (step / steps) * (WIDTH - EDGE.left - EDGE.right);
    const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
    const parts = [];
    if (drawn.length || this.range)
      for (const value of ticks(low, high, 4)) {
        parts.push(element("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }));
        parts.push(element("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, this.format(value)));
      }
    parts.push(element("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(low), y2: y(low) }));
    for (const step of ticks(0, steps, 4).filter((step) => Number.isInteger(step) && step > 0))
      parts.push(element("text", { x: x(step), y: HEIGHT - 6, "text-anchor": x(step) > WIDTH - 20 ? "end" : "middle" }, step));
    parts.push(element("text", { x: EDGE.left, y: HEIGHT - 6, "text-anchor": "middle" }, "0"));
    for (const [name, points] of drawn) {
      const path = points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("");
      parts.push(element("path", { class: `curve ${name}`, d: path }));
    }
    this.svg.replaceChildren(...parts);
    const last = (points) => this.format(points.at(-1)[1]);
    const said = drawn.map(([name, points]) => [name, `${name === "fam" ? "FAM" : "plain"} ${last(points)}`]);
    this.svg.setAttribute("aria-label", `${this.label}: ${said.map(([, text]) => text).join(", ") || "no steps yet"}`);
    this.legend.replaceChildren(
      ...said.map(([name, text]) => Object.assign(document.createElement("li"), { className: name, textContent: text })),
    );
  }
}
