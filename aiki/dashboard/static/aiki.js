// Aiki's dashboard. Everything works without this file; with it pages renew themselves, ask in dialogs and take keys.
(() => {
  "use strict";
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
  const home = document.body.dataset.home; // the address of the first page
  // The server's clock decides: as the page, and each answer since, told it, and counted on by a clock that nobody sets.
  let offset = Number(document.body.dataset.now) / 1000 - performance.now();
  const learn = (answer) => {
    const told = Number(answer.headers.get("Aiki-Time"));
    if (told) offset = told / 1000 - performance.now();
  };
  const now = () => performance.now() + offset;

  // ------------------------------------------------------------ times
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const span = (s) => {
    if (s < 10) return s.toFixed(1) + " s";
    s = Math.round(s);
    if (s < 60) return s + " s";
    for (let i = 0; i < 3; i++) {
      const [size, unit] = units[i];
      if (s < size) continue;
      const [less, name] = units[i + 1] || [1, "s"];
      const rest = Math.floor((s % size) / less);
      return Math.floor(s / size) + " " + unit + (rest ? " " + rest + " " + name : "");
    }
  };
  const ago = (ms) => {
    const apart = Math.abs(ms) / 1000;
    if (apart < 1) return "just now";
    let text = Math.floor(apart) + " s";
    for (const [size, unit] of units) if (apart >= size) { text = Math.floor(apart / size) + " " + unit; break; }
    return ms > 0 ? text + " ago" : "in " + text;
  };
  let apartFrom = Date.now() - performance.now();
  const tick = () => {
    const drift = Date.now() - performance.now();
    if (Math.abs(drift - apartFrom) > 2000) { // this machine has slept, or its clock was set: which of the two nobody tells
      apartFrom = drift;
      fetch($("link[rel=icon]").href, { method: "HEAD", cache: "no-store" }).then(learn).catch(() => {});
    }
    const at = now();
    for (const time of $$("time[datetime]")) {
      const apart = at - Date.parse(time.dateTime);
      const text = time.className === "since" ? span(Math.max(0, apart / 1000)) : ago(apart);
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tick, 1000);

  // ------------------------------------------------------------ live parts
  const live = $("#live");
  let paused = sessionStorage.getItem("paused") === "1", heard = now(), stale = false;
  const loaded = performance.now();
  const show = () => {
    if (!live) return;
    live.hidden = !$("[data-live]");
    live.className = "quiet" + (stale ? " stale" : paused ? " paused" : "");
    live.setAttribute("aria-pressed", String(paused));
    $("span", live).textContent = stale ? "Stale since " + clock(heard) : paused ? "Paused" : "Live";
  };
  const clock = (ms) => { // the time of day there, and where
    const zone = document.body.dataset.zone;
    for (const timeZone of [zone, "UTC"]) {
      try { return new Date(ms).toLocaleTimeString("en-GB", { timeZone, hour12: false }) + " " + timeZone; } catch { /* a zone that the browser does not know */ }
    }
  };
  const busy = () => $("dialog[open]") || document.hidden || (getSelection() && !getSelection().isCollapsed);
  const renew = (force) => {
    const now = performance.now();
    for (const part of $$("[data-live]")) {
      follow(part);
      const every = part._followed && !stale ? (part._wanted ? 1 : 5) : Number(part.dataset.live);
      if (!force && now - (part._asked || loaded) < every * 1000 - 50) continue;
      part._asked = now;
      part._wanted = false;
      part.dispatchEvent(new CustomEvent("renew"));
    }
  };
  // Where there is a stream of events, it says when to renew; where it breaks, or there are too many, parts are renewed by the clock.
  const follow = (part) => {
    const address = part.dataset.stream;
    if (part._source || !address || !window.EventSource) return;
    const source = part._source = new EventSource(address);
    source.onopen = () => { part._followed = part._wanted = true; };
    source.onerror = () => {
      part._followed = false;
      if (source.readyState === EventSource.CLOSED) source.close(); // kept, so that it is not opened again
    };
    for (const name of ["run", "steps", "end", "runs", "overview"]) source.addEventListener(name, () => { part._wanted = true; });
    source.addEventListener("stale", () => { stale = true; show(); });
    source.addEventListener("fresh", () => { part._wanted = true; });
  };
  const unfollow = () => { // a hidden tab must not hold one of the few connections that a browser opens to a server
    for (const part of $$("[data-live]")) {
      if (part._source) part._source.close();
      part._source = part._followed = null;
    }
  };
  addEventListener("pagehide", unfollow);
  setInterval(() => { if (!paused && !busy()) renew(false); }, 500);
  document.addEventListener("visibilitychange", () => { if (document.hidden) unfollow(); else if (!paused) renew(true); });
  if (live) live.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "1" : "0");
    if (!paused) renew(true);
    show();
  });
  document.addEventListener("htmx:config:request", (event) => {
    const tag = event.target._tag;
    if (tag && event.target.matches("[data-live]")) event.detail.ctx.request.headers["If-None-Match"] = tag;
  });
  document.addEventListener("htmx:after:request", (event) => {
    const response = event.detail.ctx && event.detail.ctx.response;
    if (!response || !event.target.matches("[data-live]")) return;
    learn(response);
    if (response.status === 401) location.reload();
    if (response.status < 400) {
      event.target._tag = response.headers.get("ETag") || "";
      heard = now();
      stale = false;
    } else stale = true;
    show();
  });
  document.addEventListener("htmx:error", () => { stale = true; show(); });
  document.addEventListener("htmx:after:swap", () => { tick(); reveal(); count(); show(); });
  document.addEventListener("htmx:before:swap", (event) => { // an error page is no part: what is shown stays
    const response = event.detail.ctx && event.detail.ctx.response;
    if (response && response.status >= 400) event.preventDefault();
  });

  // ------------------------------------------------------------ dialogs
  const dialog = $("#dialog");
  const ask = async (address) => {
    const answer = await fetch(address, { headers: { "X-Dialog": "1" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const form = $("#ask", page) || $("main", page);
    dialog.replaceChildren(document.adoptNode(form));
    dialog.showModal();
    const first = $("input:not([type=hidden]), textarea, select, button", dialog);
    if (first) first.focus();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog], button[data-copy], a[data-close]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (link.dataset.copy !== undefined) return copy(link);
    if (link.dataset.close !== undefined) {
      if (dialog.open) { event.preventDefault(); dialog.close(); }
      return;
    }
    event.preventDefault();
    ask(link.href).catch(() => { location.href = link.href; });
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.addEventListener("submit", (event) => { // a form is sent once
    if (event.target.dataset.sent) event.preventDefault();
    else if (event.target.method === "post") event.target.dataset.sent = "1";
  });
  addEventListener("pageshow", () => { for (const form of $$("form[data-sent]")) delete form.dataset.sent; });

  // ------------------------------------------------------------ copying
  const copy = async (button) => {
    const from = button.dataset.copyFrom;
    const text = from ? await (await fetch(from)).text() : button.dataset.copy;
    await navigator.clipboard.writeText(text);
    button.classList.add("done");
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => button.classList.remove("done"), 1200);
  };
  const reveal = () => { for (const item of $$("[data-copy][hidden], [data-js][hidden]")) item.hidden = false; };

  // ------------------------------------------------------------ keys
  let after = "";
  const rows = () => $$("[data-row]");
  const move = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.findIndex((row) => row.hasAttribute("data-at"));
    const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + by))];
    for (const row of all) row.toggleAttribute("data-at", row === next);
    const link = $("a", next);
    if (link) link.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); return palette(); }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) {
      if (event.key === "Escape" && event.target.id === "filter") event.target.blur();
      return;
    }
    const before = after;
    after = "";
    if (before === "g") {
      const to = $$("nav a[data-key]").find((link) => link.dataset.key === event.key);
      if (to) { event.preventDefault(); to.click(); }
      return;
    }
    if (event.key === "g") { after = "g"; setTimeout(() => { after = ""; }, 1500); }
    else if (event.key === "/") { const field = $("#filter"); if (field) { event.preventDefault(); field.focus(); field.select(); } }
    else if (event.key === "?") { event.preventDefault(); help(); }
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "o") { const link = $("[data-row][data-at] a"); if (link) link.click(); }
    else if (event.key === "x") { const box = $("[data-row][data-at] input[type=checkbox]"); if (box) box.click(); }
    else if (event.key === "p" && live && !live.hidden) live.click();
  });
  const make = (tag, text, values = {}) => Object.assign(document.createElement(tag), { textContent: text }, values);
  const help = () => {
    const list = make("dl", "", { className: "facts" });
    const known = [["/", "go to the filter"], ["j k", "next and previous row"], ["o", "open the row"], ["x", "select the row"],
      ["p", "pause or resume live updates"], ["Ctrl K", "find a page, a name or a run"], ["?", "this help"]];
    for (const link of $$("nav a[data-key]")) known.push(["g " + link.dataset.key, link.textContent]);
    for (const [keys, text] of known) {
      const term = make("dt", "");
      for (const key of keys.split(" ")) term.append(make("kbd", key), " ");
      list.append(term, make("dd", text));
    }
    const close = make("button", "Close", { autofocus: true });
    close.addEventListener("click", () => dialog.close());
    dialog.replaceChildren(make("h2", "Keys"), list, close);
    dialog.showModal();
  };
  const helpButton = $("#help-button");
  if (helpButton) { helpButton.hidden = false; helpButton.addEventListener("click", help); }

  // ------------------------------------------------------------ palette
  const fits = (text, asked) => { // letters in order; the closer together and the earlier, the better
    let at = -1, score = 0;
    for (const letter of asked) {
      const next = text.indexOf(letter, at + 1);
      if (next < 0) return -1;
      score += next - at;
      at = next;
    }
    return score;
  };
  const palette = () => {
    const input = make("input", "", { type: "text", placeholder: "A page, a task's or workflow's name, a run id" });
    for (const [name, value] of [["role", "combobox"], ["aria-label", "Find"], ["aria-expanded", "true"], ["aria-controls", "found"], ["aria-autocomplete", "list"]]) input.setAttribute(name, value);
    const list = make("ul", "", { id: "found", className: "found" });
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Found");
    const pages = $$("nav a[data-key]").map((link) => ({ title: link.textContent, note: "page", url: link.href }));
    let names = [], chosen = 0, shown = [];
    const draw = () => {
      const asked = input.value.trim().toLowerCase();
      shown = [...pages, ...names].map((item) => ({ item, score: fits(item.title.toLowerCase(), asked) }))
        .filter((one) => one.score >= 0).sort((a, b) => a.score - b.score).slice(0, 12).map((one) => one.item);
      if (/^[0-9a-f-]{6,36}$/.test(asked)) shown.unshift({ title: asked, note: "run id", url: home + "find?q=" + encodeURIComponent(asked) });
      else if (asked) shown.push({ title: asked, note: "filter runs", url: home + "runs?q=" + encodeURIComponent(input.value.trim()) });
      chosen = Math.min(chosen, Math.max(0, shown.length - 1));
      list.replaceChildren(...shown.map((item, i) => {
        const row = make("li", item.title, { id: "found-" + i });
        row.setAttribute("role", "option");
        row.setAttribute("aria-selected", String(i === chosen));
        row.append(make("small", item.note));
        row.addEventListener("click", () => { location.href = item.url; });
        return row;
      }));
      if (shown.length) input.setAttribute("aria-activedescendant", "found-" + chosen);
      else input.removeAttribute("aria-activedescendant");
    };
    input.addEventListener("input", () => { chosen = 0; draw(); });
    input.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (by) { event.preventDefault(); chosen = Math.max(0, Math.min(shown.length - 1, chosen + by)); draw(); }
      else if (event.key === "Enter" && shown[chosen]) location.href = shown[chosen].url;
    });
    fetch(home + "names").then((answer) => answer.json()).then((found) => { names = found; draw(); }).catch(() => {});
    dialog.replaceChildren(input, list);
    if (!dialog.open) dialog.showModal();
    input.focus();
    draw();
  };

  // ------------------------------------------------------------ choosing
  const own = $("[data-own-zone]");
  if (own) {
    // Browsers may have another spelling, such as Asia/Calcutta for Asia/Kolkata.
    const spelt = (timeZone) => { try { return Intl.DateTimeFormat("en", { timeZone }).resolvedOptions().timeZone; } catch { return ""; } };
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone, options = [...own.form.elements.zone.options];
    const option = options.find((one) => one.value === zone) || options.find((one) => spelt(one.value) === zone);
    if (option) {
      own.hidden = false;
      own.textContent = "Use this computer's: " + option.value;
      own.addEventListener("click", () => { option.selected = true; own.form.requestSubmit(); });
    }
  }
  for (const button of $$("[data-hide]")) button.hidden = true;
  document.addEventListener("change", (event) => { if (event.target.matches("select[data-choose]")) event.target.form.submit(); });

  // ------------------------------------------------------------ selecting rows
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("[data-select-all]")) for (const one of $$("input[name=run]")) one.checked = box.checked;
    if (box.matches("[data-select-all], input[name=run]")) count();
  });
  const count = () => {
    const chosen = $$("input[name=run]:checked").length;
    for (const note of $$("[data-chosen]")) note.textContent = chosen ? chosen + " selected" : "";
  };

  tick();
  reveal();
  count();
  show();
})();
