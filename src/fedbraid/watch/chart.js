// The curve of the main score over the rounds, with its tasks as bands and the value under the pointer.
const draw = (tag, values, ...inside) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(values)) node.setAttribute(key, String(value));
  node.append(...inside);
  return node;
};
const marks = (low, high) => {
  const rough = Math.max(high - low, 1e-6) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let place = Math.floor(low / step + 1e-9); place <= Math.ceil(high / step - 1e-9); place += 1) found.push(place * step);
  return found.length > 1 ? found : [found[0] - step, found[0]];
};
const chart = () => {
  const box = at("plot"), wide = box.clientWidth, tall = 250;
  const key = JSON.stringify([wide, status.curve.length, status.curve.at(-1), status.progress.rounds]);
  at("score").hidden = !status.curve.length;
  if (key === drawn || !wide) return;
  drawn = key;
  const main = status.scores[0], points = status.curve;
  if (!points.length) return;
  set(at("curve"), `${capital(main.heading)}${status.state === "finished" ? "" : " so far"}`);
  const last = span(points.at(-1)[0], status.progress.rounds || 0);
  const values = points.map(([, value]) => value);
  const ticks = marks(Math.min(...values), Math.max(...values));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const left = 44, right = wide - 12, top = 22, base = tall - 26;
  const x = (place) => left + ((place - 1) / (last - 1)) * (right - left);
  const y = (value) => base - ((value - low) / (high - low)) * (base - top);
  const body = [];
  status.starts.forEach(([task, first], place) => {
    const stop = place + 1 < status.starts.length ? status.starts[place + 1][1] : points.at(-1)[0] + 0.5;
    const from = Math.max(x(first - 0.5), left), to = Math.min(x(stop - 0.5), right);
    if (place % 2 === 0) body.push(draw("rect", { class: "band", x: from, y: top, width: Math.max(to - from, 0), height: base - top }));
    if (to - from > 46) body.push(draw("text", { x: (from + to) / 2, y: top - 8, "text-anchor": "middle" }, `task ${task + 1}`));
  });
  for (const mark of ticks) {
    body.push(draw("line", { class: "grid", x1: left, x2: right, y1: y(mark), y2: y(mark) }));
    body.push(draw("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, main.unit > 1 ? `${+(main.unit * mark).toFixed(4)}%` : `${+mark.toFixed(4)}`));
  }
  body.push(draw("text", { x: left, y: tall - 6 }, "round 1"), draw("text", { x: right, y: tall - 6, "text-anchor": "end" }, last.toLocaleString("en")));
  body.push(draw("polyline", { class: "line", points: points.map(([place, value]) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
  body.push(...pointer(points, x, y, main, right));
  box.replaceChildren(draw("svg", { viewBox: `0 0 ${wide} ${tall}`, height: tall, role: "img", "aria-label": `${main.heading} ${shown(main, main.last)} after ${points.at(-1)[0]} of ${last} rounds` }, ...body));
};
// The rounds that the chart is wide: all of them, or as many halves of them less as leave room on the right.
const span = (seen, all) => {
  let wide = Math.max(seen, all, 2);
  while (wide / 2 > 1.25 * seen && wide > 20) wide = Math.ceil(wide / 2);
  return wide;
};
// The point under the pointer with its value; the newest one where there is none.
const pointer = (points, x, y, main, right) => {
  const dot = draw("circle", { class: "dot", r: 4.5 }), text = draw("text", { class: "value halo" });
  const put = ([place, value], hover) => {
    dot.setAttribute("cx", x(place));
    dot.setAttribute("cy", y(value));
    const beside = x(place) < right - (hover ? 130 : 60);
    text.setAttribute("x", beside ? x(place) + 11 : right);
    text.setAttribute("y", beside ? y(value) + 4 : y(value) + (y(value) < 45 ? 21 : -11));
    text.setAttribute("text-anchor", beside ? "start" : "end");
    text.textContent = hover ? `${shown(main, value)}, round ${place}` : shown(main, value);
  };
  put(points.at(-1), false);
  at("plot").onpointermove = (event) => {
    const here = event.clientX - at("plot").getBoundingClientRect().left;
    put(points.reduce((best, point) => (Math.abs(x(point[0]) - here) < Math.abs(x(best[0]) - here) ? point : best)), true);
  };
  at("plot").onpointerleave = () => put(points.at(-1), false);
  return [dot, text];
};
