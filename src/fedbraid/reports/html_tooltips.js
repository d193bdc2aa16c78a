// Tooltips that follow the pointer, made from the SVG titles; without this script the browser shows the titles itself.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const svg of document.querySelectorAll("svg.chart")) {
    const title = svg.querySelector(":scope > title");
    if (title) {
      svg.setAttribute("aria-label", title.textContent);
      svg.removeAttribute("aria-labelledby");
      svg.setAttribute("aria-describedby", svg.querySelector(":scope > desc").id);
      title.remove();
    }
    for (const mark of svg.querySelectorAll("title")) {
      mark.parentElement.dataset.tip = mark.textContent;
      mark.remove();
    }
  }
  const place = (event) => {
    const mark = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    tip.hidden = !mark;
    if (!mark) return;
    const [head, ...rest] = mark.dataset.tip.split("\n");
    const strong = document.createElement("b");
    strong.textContent = head;
    tip.replaceChildren(strong, rest.length ? "\n" + rest.join("\n") : "");
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const above = event.clientY - tip.offsetHeight - 14;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? Math.max(8, above) : below}px`;
  };
  document.addEventListener("pointermove", place);
  document.addEventListener("pointerdown", place);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
