// Shared by the other scripts: data on demand, elements without markup, formatted numbers.
"use strict";

const store = new Map();

// Data files are scripts that call this function: a page opened from a disk may load scripts only.
function receive(name, content) {
  store.get(name).resolve(content);
}

function load(name) {
  if (!store.has(name)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, {resolve, reject}));
    store.set(name, entry);
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onerror = () => { store.delete(name); entry.reject(new Error(`data/${name}.js cannot be loaded`)); };
    script.onload = () => script.remove();
    document.head.append(script);
  }
  return store.get(name).promise;
}

// Texts become text nodes and attribute values, never markup: some of them come from images under test.
const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "line", "rect", "circle", "text", "g", "clipPath", "title", "polyline"]);

function el(tag, attributes = {}, ...children) {
  const svg = DRAWN.has(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A link for http, https and, from a disk, file addresses; any other address stays text.
function link(address, text) {
  let url;
  try { url = new URL(address, document.baseURI); } catch { return el("span", {}, text); }
  const known = ["http:", "https:"].includes(url.protocol) || (url.protocol === "file:" && location.protocol === "file:");
  return known ? el("a", {href: url.href, rel: "noopener noreferrer"}, text) : el("span", {}, text);
}

const MINUS = "\u2212";

function signed(text) {
  return text.replace("-", MINUS);
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  for (const [power, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
    if (size >= power) return signed(`${trim(value / power, digits)} ${name}`);
  }
  return signed(size >= 10000 ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f") : trim(value, digits));
}

function trim(value, digits) {
  const text = value.toPrecision(digits);
  return text.includes("e") ? String(Number(text)) : text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function quantity(value, unit, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (unit === "B") {
    const power = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.abs(value) || 1) / 10)));
    return signed(`${trim(value / 1024 ** power, digits)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`);
  }
  const text = number(value, digits);
  return /[A-Z]$/.test(text) ? `${text}${unit}` : `${text} ${unit}`;
}

function between(low, high, unit) {
  const [first, second] = [quantity(low, unit), quantity(high, unit)];
  const own = first.split(" ").slice(1).join(" ");
  return `${second.endsWith(` ${own}`) ? first.split(" ")[0] : first} to ${second}`;
}

// Hyphens before figures are minus signs; those within names stay.
function sentence(text) {
  return text.replace(/(?<=[ (])-(?=\d)/g, MINUS);
}

function percent(share) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  const text = Math.abs(value) >= 10 ? value.toFixed(0) : value.toFixed(1);
  return Number(text) === 0 ? "0 %" : signed(`${value > 0 ? "+" : ""}${text} %`);
}

function day(started) {
  return started.slice(0, 10);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const VERDICTS = {
  "regressed": {mark: "▲", name: "regressed", tone: "bad", order: 0},
  "too noisy to tell": {mark: "≈", name: "too noisy", tone: "unclear", order: 2},
  "improved": {mark: "▼", name: "improved", tone: "good", order: 3},
  "unchanged": {mark: "=", name: "unchanged", tone: "calm", order: 4},
  "none": {mark: "·", name: "no release", tone: "calm", order: 5},
};

function verdictOf(trend) {
  return VERDICTS[trend.change?.verdict] ?? VERDICTS.none;
}

function overBudget(trend) {
  if (trend.budget === null) return false;
  const {low, high} = trend.newest;
  return trend.metric.better === "lower" ? high > trend.budget : low < trend.budget;
}

function badge(trend) {
  const {name, tone} = verdictOf(trend);
  const mark = tone === "bad" || tone === "good" ? (trend.change.share > 0 ? "▲" : "▼") : verdictOf(trend).mark;
  return el("span", {class: `badge ${tone}`}, el("span", {"aria-hidden": "true"}, mark), ` ${name}`);
}
