// Asks for the status of the run now and then and shows it. Names and reasons come from other machines: they enter the
// page as text alone, never as markup.
const STATES = ["sent", "idle", "awaited", "missing", "failed", "refused", "apart"];
const CODES = { s: "sent", i: "idle", f: "failed", r: "refused", "-": "apart" };
const ROWS = 100, FEW = 5;
let status = null, got = 0, lost = false, filter = "", everyone = false, older = false, drawn = "";
const clocks = new Map();

// A text that changes while time goes by: `tell` makes it from the seconds since the status came.
const ticking = (node, tell) => { clocks.set(node, tell); set(node, tell(0)); };
const still = (node, text) => { clocks.delete(node); set(node, text); };
const tick = () => {
  if (lost) return;
  const gone = (performance.now() - got) / 1000;
  for (const [node, tell] of clocks) {
    if (node.isConnected) set(node, tell(gone));
    else clocks.delete(node);
  }
};

const header = () => {
  const { about, state } = status;
  const title = at("title");
  title.replaceChildren(about.method || status.run);
  if (about.data) title.append(" ", make("span", "", "on"), ` ${about.data}`);
  const facts = [`run ${status.run}`];
  if (about.backbone) facts.push(`${about.backbone} backbone`);
  if (about.clients) facts.push(counted(about.clients, "client"));
  if (about.tasks) facts.push(counted(about.tasks, "task"));
  if (about.partition) facts.push(`${about.partition} partition`);
  if (about.seed !== null) facts.push(`seed ${about.seed}`);
  set(at("facts"), facts.join(" · "));
  at("state").dataset.state = state;
  set(at("state"), state[0].toUpperCase() + state.slice(1));
  const why = at("why");
  why.replaceChildren(capital(status.why));
  if (status.advice) why.append(status.why ? ". " : "", ...advice());
  const { done, rounds } = status.progress;
  document.title = `${state === "running" ? "" : `${state} · `}${done}${rounds ? `/${rounds}` : ""} · ${status.run}`;
};
const advice = () => {
  const words = { finished: "Its report: ", "not begun": "Begin it with ", silent: "If it has ended, go on with " };
  return [words[status.state] || "Go on with ", make("code", "", status.advice)];
};

const progress = () => {
  const { done, rounds, task, tasks, left, spent } = status.progress;
  const of = tasks ? `task ${Math.min(task + 1, tasks)} of ${tasks}` : `task ${task + 1}`;
  set(at("where"), rounds ? `${done} of ${counted(rounds, "round")}` : counted(done, "round"));
  const taken = spent ? `, ${duration(spent)} in rounds so far` : "";
  if (status.state === "finished") still(at("left"), `${counted(tasks || task + 1, "task")} in ${duration(spent)}`);
  else if (left === null) still(at("left"), `${of}${taken}`);
  else still(at("left"), `${of}, about ${rough(left)} left${taken}`);
  at("fill").style.width = rounds ? `${(100 * done) / rounds}%` : "0";
  const bar = at("track");
  bar.dataset.state = status.state;
  bar.setAttribute("aria-valuenow", String(done));
  bar.setAttribute("aria-valuemax", String(rounds || done));
  for (const old of bar.querySelectorAll(".tick")) old.remove();
  for (const [, first] of rounds ? status.starts : []) {
    if (first === 1) continue;
    const mark = make("span", "tick");
    mark.style.left = `${(100 * (first - 1)) / rounds}%`;
    bar.append(mark);
  }
};

const tiles = () => {
  const { counts } = status.round || { counts: null };
  const main = status.scores[0];
  const found = [];
  const learned = status.state === "finished" && status.results.faa !== undefined;
  if (learned) found.push(["FAA", `${(100 * status.results.faa).toFixed(1)}%`, finals()]);
  else if (main) {
    const others = status.scores.slice(1).map((score) => `${score.heading} ${shown(score, score.last)}`);
    found.push([`${capital(main.heading)} so far`, shown(main, main.last), [`best ${shown(main, main.best)}`, ...others].join(", ")]);
  } else found.push(["Accuracy so far", DASH, "not measured yet"]);
  if (counts) {
    const answered = counts.sent + counts.idle;
    found.push(["Answered", `${answered} of ${status.round.asked}`, clause(counts)]);
  } else found.push(["Answered", DASH, "nobody is asked yet"]);
  found.push(["Sent up", size(status.up), `by all clients in finished rounds; down ${size(status.down)}`]);
  const trouble = status.failed + status.refused + status.ignored;
  const kinds = `${status.failed} failed, ${status.refused} refused, ${status.ignored} ignored`;
  found.push(["Trouble", String(trouble), trouble ? kinds : "no answer failed or was refused"]);
  if (status.privacy) {
    const { epsilon, delta } = status.privacy;
    const most = delta === null ? "largest of all clients" : `at δ = ${delta.toExponential(1)}, largest of all clients`;
    found.push(["Privacy spent", epsilon === null ? "no bound" : `ε ${epsilon.toPrecision(3)}`, most]);
  }
  found.push(["Last sign", null, "of the run, in its log"]);
  fill(found);
};
const fill = (found) => {
  const list = at("numbers");
  while (list.children.length > found.length) list.lastChild.remove();
  while (list.children.length < found.length) list.append(make("div", "", make("dt"), make("dd"), make("dd")));
  list.style.setProperty("--tiles", String(found.length));
  found.forEach(([name, value, meaning], place) => {
    const [dt, dd, more] = list.children[place].children;
    set(dt, name);
    set(more, meaning);
    if (value !== null) still(dd, value);
    else if (status.sign === null) still(dd, DASH);
    else ticking(dd, (gone) => `${rough(status.sign + gone)} ago`);
  });
};
const finals = () => {
  const { aia, forgetting } = status.results;
  return `AIA ${(100 * aia).toFixed(1)}%, forgetting ${(100 * forgetting).toFixed(1)}%`;
};
const clause = (counts) => {
  const others = ["awaited", "missing", "failed", "refused"].filter((state) => counts[state]);
  return others.length ? others.map((state) => `${counts[state]} ${state}`).join(", ") : "of those who were asked last";
};

const round = () => {
  const { round: now } = status;
  split(now ? now.counts : {}, now ? now.asked : 0);
  if (!now) { set(at("round"), "No round has begun"); still(at("when"), ""); return; }
  const running = status.state === "running" || status.state === "silent";
  set(at("round"), `${running ? "" : "Last: "}${running ? capital(named(now)) : named(now)}`);
  const needs = now.needed && now.needed < now.asked ? ` · ${now.needed} of ${now.asked} answers are needed` : "";
  if (now.over) {
    const after = status.state === "paused" ? "paused" : "merged";
    still(at("when"), `${after} after ${duration(now.seconds || 0)}${running ? "; the server computes" : ""}`);
  } else {
    ticking(at("when"), (gone) => {
      const been = (now.seconds || 0) + (running ? gone : 0);
      const rest = now.deadline === null ? "" : now.deadline > been ? `, ends in ${rough(now.deadline - been)} at the latest` : `, its deadline passed ${rough(been - now.deadline)} ago`;
      return `${counted(now.asked, "client")} asked ${rough(been)} ago${rest}${needs}`;
    });
  }
};
const named = (round) => `task ${round.task + 1}, ${round.phase === "evaluate" ? "evaluation" : `${round.phase} round ${round.index + 1}`}`;
const split = (counts, asked) => {
  const bar = at("split");
  while (bar.children.length < STATES.length - 1) bar.append(make("i", STATES[bar.children.length]));
  [...bar.children].forEach((part, place) => {
    part.style.flexGrow = String(counts[STATES[place]] || 0);
    part.hidden = !counts[STATES[place]];
  });
  const told = STATES.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`);
  bar.setAttribute("aria-label", `${counted(asked, "client")}: ${told.join(", ")}`);
};

const chips = () => {
  const counts = { "": status.clients.length };
  for (const client of status.clients) counts[client.state] = (counts[client.state] || 0) + 1;
  const kinds = ["", ...STATES].filter((state) => state === "" || counts[state] || state === filter);
  const box = at("chips");
  const key = kinds.join();
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(...kinds.map((state) => {
      const chip = make("button", "", ...(state ? [make("span", `mark ${state}`)] : []), make("b"), make("span", "", state ? word(state) : "all"));
      chip.type = "button";
      chip.addEventListener("click", () => { filter = filter === state ? "" : state; show(); });
      return chip;
    }));
  }
  [...box.children].forEach((chip, place) => {
    set(chip.querySelector("b"), (counts[kinds[place]] || 0).toLocaleString("en"));
    chip.setAttribute("aria-pressed", String(filter === kinds[place]));
  });
};

const clients = () => {
  const wanted = status.clients.filter((client) => !filter || client.state === filter);
  const rows = everyone ? wanted : wanted.slice(0, ROWS);
  const body = at("rows");
  while (body.children.length > rows.length) body.lastChild.remove();
  while (body.children.length < rows.length) body.append(row());
  rows.forEach((client, place) => write(body.children[place], client));
  button(at("more"), wanted.length > ROWS, everyone ? `Show the first ${ROWS}` : `Show all ${wanted.length}`, () => { everyone = !everyone; });
};
// The only thing in its place: a button, where there is more to see.
const button = (place, wanted, text, turn) => {
  if (!wanted) { place.replaceChildren(); return; }
  const found = place.firstChild || place.appendChild(make("button"));
  found.type = "button";
  set(found, text);
  found.onclick = () => { turn(); show(); };
};
const row = () => {
  const name = make("th");
  name.scope = "row";
  const state = make("td", "", make("div", "what", make("span", "mark"), make("span")), make("div", "reason"));
  return make("tr", "", name, state, make("td", "figure"), make("td", "figure"), make("td", "", make("div", "history")),
    make("td", "figure"), make("td", "figure"), make("td", "figure"), make("td", "figure"));
};
const write = (line, client) => {
  const [name, state, bytes, took, past, rounds, up, samples, heard] = line.children;
  set(name, client.id);
  dress(state.firstChild.firstChild, `mark ${client.state}`);
  set(state.firstChild.lastChild, word(client.state));
  set(state.lastChild, client.reason);
  set(bytes, client.bytes ? size(client.bytes) : DASH);
  set(took, client.seconds === null ? DASH : duration(client.seconds));
  history(past.firstChild, client);
  set(rounds, String(client.rounds));
  set(up, size(client.up));
  set(samples, client.samples === null ? DASH : client.samples.toLocaleString("en"));
  if (client.seen === null) still(heard, DASH);
  else ticking(heard, (gone) => `${rough(client.seen + gone)} ago`);
};
const history = (box, client) => {
  const key = client.history;
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...[...key].map((code) => make("i", CODES[code] || "apart")));
  const told = [`${client.rounds} sent`, `${client.idle} idle`, `${client.failed} failed`, `${client.refused} refused`];
  box.title = `in all finished rounds: ${told.join(", ")}`;
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", box.title);
};

const troubles = () => {
  const list = at("troubles"), all = status.troubles, few = older ? all : all.slice(0, FEW);
  at("fine").hidden = all.length > 0;
  button(at("older"), all.length > FEW, older ? `Show the last ${FEW}` : `Show all ${all.length}`, () => { older = !older; });
  while (list.children.length > few.length) list.lastChild.remove();
  while (list.children.length < few.length) {
    list.append(make("li", "", make("span", "mark"), make("p", "", make("b"), " ", make("time"), make("span")), make("p")));
  }
  few.forEach((one, place) => {
    const [mark, head, text] = list.children[place].children;
    const [what, when, times] = head.children;
    dress(mark, `mark ${one.what}`);
    const names = { missing: "Answers missing", paused: "Paused", again: "Asked again", ignored: "Answer ignored", doubted: "Many strange updates" };
    set(what, one.client ? `Client ${one.client} ${one.what}` : names[one.what] || one.what);
    if (one.ago === null) still(when, "");
    else ticking(when, (gone) => `${rough(one.ago + gone)} ago`);
    set(times, one.times > 1 ? `, ${one.times} times` : "");
    set(text, one.text);
  });
};

const show = () => {
  if (!status) return;
  at("wait").hidden = true;
  at("who").hidden = !status.clients.length;
  set(at("which"), status.training ? `In ${named(status.training)}, and in all finished rounds together.` : "");
  at("page").hidden = false;
  for (const part of [header, progress, tiles, round, chips, clients, troubles, chart]) part();
};
const miss = () => {
  const words = "No connection: fedbraid watch has ended, or this machine cannot reach it. What is shown is old.";
  set(status ? at("why") : at("wait"), words);
  if (status && !lost) { at("state").dataset.state = "lost"; set(at("state"), "Not watched"); }
  lost = true;
};
const ask = async () => {
  if (document.hidden && status) return;
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(String(answer.status));
    status = await answer.json();
    [got, lost] = [performance.now(), false];
    show();
  } catch { miss(); }
};
const again = async () => {
  await ask();
  setTimeout(again, status && status.state === "reading" ? 300 : status && ["finished", "gone"].includes(status.state) ? 10000 : 2000);
};
setInterval(tick, 1000);
addEventListener("resize", () => { if (status) chart(); });
document.addEventListener("visibilitychange", ask);
again();
