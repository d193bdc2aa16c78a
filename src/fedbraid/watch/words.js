// Elements and texts: how the page is built, and how numbers are worded, as `reports.html_numbers` words them.
const WORDS = { apart: "not asked" };
const DASH = "–";
const at = (id) => document.getElementById(id);
const make = (tag, name = "", ...inside) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside);
  return node;
};
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const dress = (node, name) => { if (node.className !== name) node.className = name; };

const size = (count) => {
  if (count < 999.5) return `${Math.round(count)} B`;
  for (const unit of ["kB", "MB", "GB", "TB"]) {
    count /= 1000;
    if (count < 999.5 || unit === "TB") return `${count.toFixed(count < 9.995 ? 2 : count < 99.95 ? 1 : 0)} ${unit}`;
  }
};
const duration = (seconds) => {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 100) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} days ${Math.floor((whole % 86400) / 3600)} h`;
};
// How long ago and how long still, in whole steps, so that a page that is left open stays calm.
const rough = (seconds) => (seconds < 100 ? `${Math.floor(seconds)} s` : duration(seconds));
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const shown = (score, value) => (score.unit > 1 ? `${(score.unit * value).toFixed(1)}%` : value.toFixed(3));
const word = (state) => WORDS[state] || state;

const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
