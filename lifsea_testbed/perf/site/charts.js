// Charts, drawn as SVG: trends with their intervals, stacked phases, small curves, dots of samples.
"use strict";

let clips = 0;
const MARGIN = {top: 14, right: 14, bottom: 26, left: 58};

function scale(from, to, start, end) {
  const span = to - from || 1;
  return (value) => start + ((value - from) / span) * (end - start);
}

function ticks(low, high, about) {
  const rough = (high - low || 1) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function line(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function band(upper, lower) {
  return `${line(upper)}${line([...lower].reverse()).replace("M", "L")}Z`;
}

// A small curve of the last values; hidden from screen readers, because its row has the numbers.
function spark(values, tone) {
  const [width, height] = [150, 34];
  const low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low) * 0.1 || Math.abs(high) * 0.05 || 1;
  const x = scale(0, Math.max(1, values.length - 1), 3, width - 5);
  const y = scale(low - pad, high + pad, height - 3, 3);
  const last = [x(values.length - 1), y(values.at(-1))];
  return el("svg", {class: `spark ${tone}`, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"},
    el("path", {class: "curve", d: line(values.map((value, i) => [x(i), y(value)]))}),
    el("circle", {cx: last[0], cy: last[1], r: 2.6}));
}

// The samples of one or two builds on one scale.
function dots(groups, budget) {
  const all = groups.flat();
  const low = Math.min(...all), high = Math.max(...all);
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  const x = scale(low - pad, high + pad, 4, 216);
  const height = groups.length * 16 + 4;
  return el("svg", {class: "dots", viewBox: `0 0 220 ${height}`, "aria-hidden": "true"},
    budget !== null && budget >= low - pad && budget <= high + pad
      ? el("line", {class: "budget", x1: x(budget), x2: x(budget), y1: 0, y2: height}) : null,
    groups.map((values, row) => el("g", {class: `row${row}`},
      el("line", {class: "rail", x1: 4, x2: 216, y1: 10 + row * 16, y2: 10 + row * 16}),
      values.map((value) => el("circle", {cx: x(value).toFixed(1), cy: 10 + row * 16, r: 3.2})),
      el("line", {class: "middle", x1: x(median(values)), x2: x(median(values)), y1: 4 + row * 16, y2: 16 + row * 16}))));
}

// The frame of a chart over builds: axes, a cursor that pointer and keys move, and the text of its build.
class Frame {
  constructor({labels, starts, low, high, unit, height, name, words, open}) {
    Object.assign(this, {labels, starts, unit, height, words, open, count: starts.length});
    this.cursor = this.count - 1;
    this.low = low;
    this.high = high;
    this.readout = el("p", {class: "readout", "aria-live": "off"});
    this.plot = el("div", {class: "plot", tabindex: "0", role: "slider", "aria-label": `${name}, build by build`,
      "aria-valuemin": 1, "aria-valuemax": this.count, "aria-describedby": "chart-keys",
      onkeydown: (event) => this.key(event), onpointermove: (event) => this.point(event),
      onpointerdown: (event) => this.point(event), ondblclick: () => this.open(this.cursor)});
    this.node = el("div", {class: "chart"}, this.plot, this.readout);
    this.move(this.cursor);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || width === this.width) return;
    this.width = width;
    const {left, right, top, bottom} = MARGIN;
    this.x = scale(0, Math.max(1, this.count - 1), left + 6, width - right - 6);
    this.y = scale(this.low, this.high, this.height - bottom, top);
    this.mark = el("g", {class: "cursor"});
    const clip = el("clipPath", {id: `clip-${clips += 1}`},
      el("rect", {x: left, y: 0, width: Math.max(1, width - left - right), height: this.height - bottom}));
    this.plot.replaceChildren(el("svg", {width, height: this.height, "aria-hidden": "true"}, clip,
      this.grid(width), el("g", {"clip-path": `url(#${clip.id})`}, this.paint(this.x, this.y)), this.mark));
    this.move(this.cursor);
  }

  grid(width) {
    const {left, right, bottom} = MARGIN;
    const shown = ticks(this.low, this.high, this.height / 56);
    const digits = Math.max(3, Math.ceil(Math.log10(Math.abs(this.high) / ((shown[1] - shown[0]) || 1) || 1)) + 2);
    const rows = shown.map((value) => el("g", {},
      el("line", {class: "grid", x1: left, x2: width - right, y1: this.y(value), y2: this.y(value)}),
      el("text", {x: left - 8, y: this.y(value) + 4, "text-anchor": "end"}, this.tick(value, digits))));
    const wanted = Math.max(2, Math.floor((width - left - right) / 110));
    const every = Math.max(1, (this.count - 1) / (wanted - 1));
    const places = this.count === 1 ? [0] : Array.from({length: Math.min(wanted, this.count)}, (_, i) => Math.round(i * every))
      .filter((place) => place < this.count);
    const unit = this.unit === "B" ? null : el("text", {x: left - 8, y: 12, "text-anchor": "end"}, this.unit.slice(0, 8));
    return el("g", {class: "axes"}, unit, rows, places.map((place, i) => el("text", {x: this.x(place), y: this.height - bottom + 19,
      "text-anchor": i === 0 ? "start" : i === places.length - 1 ? "end" : "middle"}, day(this.starts[place]))));
  }

  tick(value, digits) {
    return this.unit === "B" ? quantity(value, "B", 3) : number(value, Math.min(6, digits));
  }

  point(event) {
    if (!this.mark) return;
    const place = (event.clientX - this.plot.getBoundingClientRect().left - this.x(0)) / ((this.x(1) - this.x(0)) || 1);
    this.move(Math.min(this.count - 1, Math.max(0, Math.round(place))));
  }

  key(event) {
    const page = Math.max(2, Math.round(this.count / 10));
    const steps = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -page, PageUp: page,
      Home: -this.count, End: this.count};
    if (event.key === "Enter") this.open(this.cursor);
    else if (!(event.key in steps)) return;
    event.preventDefault();
    if (event.key in steps) this.move(Math.min(this.count - 1, Math.max(0, this.cursor + steps[event.key])));
  }

  move(place) {
    this.cursor = place;
    const {parts, text, dots: marks} = this.words(place);
    this.plot.setAttribute("aria-valuenow", place + 1);
    this.plot.setAttribute("aria-valuetext", text);
    this.readout.replaceChildren(...parts);
    if (!this.mark) return; // not drawn yet; drawing moves the cursor here
    this.mark.replaceChildren(
      el("line", {x1: this.x(place), x2: this.x(place), y1: MARGIN.top - 6, y2: this.height - MARGIN.bottom}),
      ...marks.map((value) => el("circle", {cx: this.x(place), cy: this.y(value), r: 4})));
  }
}

// One metric: samples from least to greatest, the interval of the median, the median, its levels, budgets, releases.
function trendChart({trend, series, builds, from, open, go}) {
  const at = (name) => series[name].slice(from);
  const medians = at("median"), lows = at("low"), highs = at("high"), indexes = at("build"), budgets = at("budget");
  const steps = series.steps.filter((step) => step.index > from).map((step) => ({...step, index: step.index - from}));
  const {unit} = trend.metric;
  const [low, high, beyond] = bounds(lows, highs, at("least"), at("most"), budgets.at(-1));
  const frame = new Frame({
    labels: indexes.map((i) => builds.label[i]), starts: indexes.map((i) => builds.started[i]), low, high, unit, height: 320,
    name: trend.metric.name, open: (i) => open(indexes[i]),
    words: (i) => {
      const build = indexes[i];
      const value = quantity(medians[i], unit), range = between(lows[i], highs[i], unit);
      return {
        text: `${builds.label[build]}, ${day(builds.started[build])}: ${value}, interval ${range}`,
        parts: [el("strong", {}, builds.label[build]), el("span", {}, day(builds.started[build])), el("strong", {}, value),
          el("span", {}, `${range}, ${at("count")[i]} samples`), el("a", {href: `#/build/${build}`}, "Open the build")],
        dots: [medians[i]],
      };
    },
  });
  frame.paint = (x, y) => {
    const path = (values) => values.map((value, i) => [x(i), y(value)]);
    const marks = [0, ...steps.map((step) => step.index), medians.length];
    const levels = marks.slice(0, -1).map((start, i) => {
      const level = y(steps.length ? (i ? steps[i - 1].after : steps[0].before) : median(medians));
      return el("line", {class: "level", x1: x(start), x2: x(marks[i + 1] - 1), y1: level, y2: level});
    });
    return [
      el("path", {class: "range", d: band(path(at("most")), path(at("least")))}),
      el("path", {class: "interval", d: band(path(highs), path(lows))}),
      medians.length > 400 ? null : el("path", {class: "curve", d: line(path(medians))}),
      el("path", {class: medians.length > 400 ? "cloud" : "cloud sparse", d: medians.map((value, i) => `M${x(i).toFixed(1)} ${y(value).toFixed(1)}h0`).join("")}),
      levels,
      runs(budgets).map(([start, end, budget]) =>
        el("line", {class: "budget", x1: x(start), x2: x(end), y1: y(budget), y2: y(budget)})),
      stepMarks(trend.metric, steps, x, frame),
      indexes.map((build, i) => builds.kind[build] === "release"
        ? el("path", {class: "release", d: `M${x(i)} ${320 - MARGIN.bottom - 9}l4 9h-8Z`}) : null),
    ];
  };
  return {frame, beyond};
}

// Change points; one too near to the last label has none.
function stepMarks(metric, steps, x, frame) {
  let taken = -Infinity;
  return steps.map((step) => {
    const place = x(step.index - 0.5), roomy = place - taken > 52;
    taken = roomy ? place : taken;
    return el("g", {class: `step ${tone(metric, step.share)}`},
      el("line", {x1: place, x2: place, y1: 22, y2: frame.height - MARGIN.bottom}),
      roomy ? el("text", {x: place, y: 16, "text-anchor": place > frame.width - 60 ? "end" : "middle"}, percent(step.share)) : null);
  });
}

function tone(metric, share) {
  return share === null ? "calm" : share > 0 === (metric.better === "lower") ? "bad" : "good";
}

// The range to show: the samples without outliers, and the budget unless it would flatten the rest.
function bounds(lows, highs, least, most, budget) {
  const cut = (values, share) => [...values].sort((a, b) => a - b)[Math.round((values.length - 1) * share)];
  let low = Math.min(Math.min(...lows), cut(least, 0.02)), high = Math.max(Math.max(...highs), cut(most, 0.98));
  const span = high - low || Math.abs(high) * 0.1 || 1;
  const far = budget !== null && (budget > high + span * 2 || budget < low - span * 2);
  if (budget !== null && !far) [low, high] = [Math.min(low, budget), Math.max(high, budget)];
  return [low - span * 0.08, high + span * 0.16, far];
}

// Stretches of equal values: [first, last, value] each.
function runs(values) {
  const found = [];
  values.forEach((value, i) => {
    if (found.length && found.at(-1)[2] === value) found.at(-1)[1] = i;
    else found.push([i, i, value]);
  });
  return found.filter(([, , value]) => value !== null);
}

// Stacked phases, the first at the bottom.
function phaseChart({name, unit, phases, builds, indexes, open}) {
  const sums = indexes.map(() => 0);
  const layers = phases.map(({values}) => {
    const lower = [...sums];
    values.forEach((value, i) => { sums[i] += value ?? 0; });
    return {lower, upper: [...sums]};
  });
  const frame = new Frame({
    labels: indexes.map((i) => builds.label[i]), starts: indexes.map((i) => builds.started[i]), low: 0,
    high: Math.max(...sums) * 1.06, unit, height: 260, name: `${name}, by phases`, open: (i) => open(indexes[i]),
    words: (i) => ({
      text: phases.map((phase) => `${phase.name} ${quantity(phase.values[i], unit)}`).join(", "),
      parts: [el("strong", {}, builds.label[indexes[i]]), el("span", {}, day(builds.started[indexes[i]])),
        el("span", {class: "legend"}, phases.map((phase, k) => el("span", {}, el("i", {class: `phase${k % 8}`}),
          `${phase.name} `, el("b", {}, quantity(phase.values[i], unit, 3)))))],
      dots: [],
    }),
  });
  frame.paint = (x, y) => layers.map(({lower, upper}, k) => el("path", {class: `phase phase${k % 8}`,
    d: band(upper.map((value, i) => [x(i), y(value)]), lower.map((value, i) => [x(i), y(value)]))}));
  return frame;
}

// The same phases of two builds, one bar each.
function phaseBars(rows, unit, names) {
  const most = Math.max(...rows.map(({values}) => values.reduce((sum, value) => sum + value, 0))) || 1;
  return el("div", {class: "bars"}, rows.map(({label, values}) => {
    let start = 0;
    return el("div", {class: "bar"}, el("span", {class: "who"}, label),
      el("svg", {viewBox: "0 0 1000 22", preserveAspectRatio: "none", "aria-hidden": "true"}, values.map((value, k) => {
        const rect = el("rect", {class: `phase phase${k % 8}`, x: (start / most) * 1000, width: Math.max(0, (value / most) * 1000 - 2), y: 0, height: 22},
          el("title", {}, `${names[k]} ${quantity(value, unit)}`));
        start += value;
        return rect;
      })), el("span", {class: "sum"}, quantity(start, unit)));
  }));
}
