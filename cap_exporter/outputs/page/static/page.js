// Keeps the page up to date: the server renders, this only puts the new parts in their places.
"use strict";
(() => {
  const status = document.getElementById("status");
  const controls = document.getElementById("controls");
  const form = document.getElementById("filter");
  const every = Number(document.body.dataset.interval);
  const shown = new Map();
  let url = location.href, paused = false, goneSince = "", timer = 0, typing = 0, asked = 0;
  let stream = null, feedTimer = 0, missing = false;

  const say = text => { if (status.textContent !== text) status.textContent = text; };
  const clock = () => new Date().toISOString().slice(11, 19) + " UTC";
  const button = (text, act) => {
    const one = document.createElement("button");
    one.type = "button";
    one.textContent = text;
    one.addEventListener("click", () => act(one));
    return one;
  };

  async function copy(pre, one) {
    const text = pre.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Not a secure context: over the network without TLS.
      getSelection().selectAllChildren(pre);
      document.execCommand("copy");
    }
    one.textContent = "Copied";
    setTimeout(() => { one.textContent = "Copy"; }, 2000);
  }

  function addCopyButtons() {
    for (const pre of document.querySelectorAll("pre[data-copy]")) {
      const one = button("Copy", it => copy(pre, it));
      one.className = "copy";
      one.setAttribute("aria-label", "Copy: " + pre.getAttribute("aria-label"));
      pre.before(one);
    }
  }

  // Not while someone marks text in it.
  function isBusy(place) {
    const marked = getSelection();
    return !marked.isCollapsed && place.contains(marked.anchorNode);
  }

  function put(place, text) {
    const html = text.trim();
    if (shown.get(place.id) === html || isBusy(place)) return;
    const before = document.activeElement;
    const had = place.contains(before) && before !== place ? before : null;
    const name = one => ["href", "aria-label", "aria-labelledby"].map(key => one.getAttribute(key)).join();
    const open = [...place.querySelectorAll("details[open]")].map(one => one.id);
    const scroll = place.querySelector(".scroll")?.scrollLeft || 0;
    place.innerHTML = html;
    shown.set(place.id, html);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (scroll) place.querySelector(".scroll")?.scrollTo(scroll, 0);
    if (place.querySelector("pre[data-copy]")) addCopyButtons();
    const now = had && [...place.querySelectorAll(had.localName)].find(one => name(one) === name(had));
    now?.focus({preventScroll: true});
  }

  async function ask(address) {
    const answer = await fetch(address, {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (answer.status >= 500) throw new Error(answer.status);
    return answer;
  }

  async function refresh() {
    clearTimeout(timer);
    const mine = ++asked;
    try {
      const answer = await ask(url);
      const text = await answer.text();
      if (mine !== asked) return;
      back();
      missing = answer.status === 404;
      if (missing) {
        say("The exporter does not know this container any more.");
      } else {
        const news = new DOMParser().parseFromString(text, "text/html");
        for (const place of document.querySelectorAll("[data-live], [data-feed]")) {
          const one = news.getElementById(place.id);
          if (one) put(place, one.innerHTML);
        }
        if (!goneSince && status.textContent !== "The exporter answers again.") say("Live.");
      }
    } catch {
      if (mine !== asked) return;
      gone();
    }
    if (!paused && !document.hidden) timer = setTimeout(refresh, every);
  }

  function gone() {
    goneSince ||= clock();
    document.body.classList.add("gone");
    say("The exporter has not answered since " + goneSince + "; trying again.");
  }

  function back() {
    if (!goneSince) return;
    goneSince = "";
    document.body.classList.remove("gone");
    say("The exporter answers again.");
    setTimeout(() => { if (!goneSince && !paused && !missing) say("Live."); }, 4000);
    listen();
  }

  function listen() {
    stream?.close();
    stream = new EventSource("/api/v1/events");
    stream.onmessage = () => { feedTimer ||= setTimeout(readFeed, 500); };
    stream.onerror = () => { if (!goneSince && !paused && !document.hidden) refresh(); };
  }

  async function readFeed() {
    feedTimer = 0;
    const place = document.querySelector("[data-feed]");
    if (!place || paused || document.hidden) return;
    try {
      const answer = await ask(place.dataset.feed);
      const news = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.ok && !paused) put(place, news.body.innerHTML);
    } catch { /* refresh() tells */ }
  }

  function rest() {
    clearTimeout(timer);
    asked++;
    stream?.close();
  }

  function go() {
    if (paused || document.hidden) rest();
    else { refresh(); listen(); }
  }

  if (form) {
    const box = form.elements.q;
    form.querySelector("button").hidden = true;
    const filter = () => {
      const query = new URLSearchParams(new FormData(form));
      if (!box.value) query.delete("q");
      url = "/" + (String(query) && "?" + query);
      history.replaceState(null, "", url);
      refresh();
    };
    box.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 200); });
    form.addEventListener("submit", event => { event.preventDefault(); clearTimeout(typing); filter(); });
  }
  for (const place of document.querySelectorAll("[data-live], [data-feed]")) shown.set(place.id, place.innerHTML.trim());
  addCopyButtons();
  controls.append(button("Pause", one => {
    paused = !paused;
    one.textContent = paused ? "Go on" : "Pause";
    say(paused ? "Paused." : "Live.");
    go();
  }));
  document.getElementById("reload").hidden = true;
  document.addEventListener("visibilitychange", go);
  go();
})();
