// The list of sessions, of which only the visible rows exist, and the page of one session.

import { ages, chip, h, replace, server, since, stateWords, sure, tell, tone } from "./dom.js";
import { lanes, strip } from "./draw.js";
import { ask, live, path } from "./live.js";

const STRIP_SECONDS = 900;
const STRIP_MS = 2000;
const short = (name) => name.split(".").at(-1);

//: Rows that are asked for beyond those in sight, on both sides; and how near to their end one may scroll before more are.
const AHEAD = 60;
const NEAR = 15;
//: As often as the cloud answers.
const ASK_MS = 40;

export class Sessions {
  constructor(view, cloud) {
    this.rows = new Map();  // of the page that the cloud tells about
    this.users = [];  // that page: the users from number `from` on, in order
    this.from = 0;
    this.matching = 0;
    this.all = null;
    this.wanted = { from: 0, count: 2 * AHEAD };
    this.pool = new Map();
    this.search = h("input", { type: "search", placeholder: cloud.node ? "user, app, model, state or node" : "user, app, model or state", "aria-label": "Search sessions", value: sessionStorage.getItem("glassbridge-search") ?? "", oninput: () => this.seek() });
    this.order = h("select", { "aria-label": "Order", onchange: () => this.seek() },
      h("option", { value: "trouble" }, "trouble first"), h("option", { value: "user" }, "by user"), h("option", { value: "newest" }, "newest change first"));
    this.total = h("output.hint", { id: "total", "aria-live": "polite" }, "loading …");
    this.spacer = h("div.spacer");
    this.list = h("div.list", { role: "table", tabindex: "0", "aria-label": "Sessions", onscroll: () => this.schedule(), onkeydown: (event) => this.key(event) }, this.spacer);
    this.empty = h("div.empty", { hidden: true });
    replace(view, h("div.head", {}, h("h2", {}, "Sessions"), this.search, this.order, this.total),
      h("div.list-head", { "aria-hidden": "true" }, ...["User", "State", "Last 15 minutes", "Apps", "Glasses"].map((word) => h("span", {}, word))),
      this.list, this.empty);
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries([["on", "--lit-dim"], ["wait", "--warn"], ["bad", "--bad"], ["off", "--off"]].map(([key, name]) => [key, style.getPropertyValue(name).trim()]));
    this.cursor = -1;
    this.resized = new ResizeObserver(() => this.schedule());
    this.resized.observe(this.list);
    this.timer = setInterval(() => this.schedule(), STRIP_MS);
    live.look(() => ({ view: "sessions", search: this.search.value.slice(0, 200), order: this.order.value, ...this.wanted }), (piece) => this.took(piece));
  }

  close() {
    clearTimeout(this.asking);
    this.resized.disconnect();
    clearInterval(this.timer);
    cancelAnimationFrame(this.frame);
  }

  took(piece) {
    if (piece.reset) this.rows.clear();
    for (const row of piece.rows) this.rows.set(row.u, row);
    if (piece.users) {
      this.users = piece.users;
      this.from = piece.from;
      const here = new Set(this.users);
      for (const user of this.rows.keys()) if (!here.has(user)) this.rows.delete(user);
      // The cursor stays with its session when the order moves under it.
      const at = this.chosen ? this.users.indexOf(this.chosen) : -1;
      if (at >= 0) this.cursor = this.from + at;
      else this.chosen = this.at(this.cursor)?.u ?? null;
    }
    this.all = piece.total;
    this.matching = piece.matching;
    this.words();
    this.schedule();
  }

  /** Another search or order: from the top. */
  seek() {
    sessionStorage.setItem("glassbridge-search", this.search.value);
    this.list.scrollTop = 0;
    this.cursor = -1;
    this.chosen = null;
    this.wanted.from = 0;
    this.ask();
  }

  /** Ask for the page that is wanted now; not more often than it is answered. */
  ask() {
    this.asking ??= setTimeout(() => { this.asking = null; live.again(); }, ASK_MS);
  }

  words() {
    const { all, matching } = this;
    this.total.textContent = this.search.value.trim() ? `${matching} of ${all}` : `${all} ${all === 1 ? "session" : "sessions"}`;
    const none = matching === 0;
    this.list.hidden = none;
    this.empty.hidden = !none;
    if (none) replace(this.empty, all ? "No session fits this search." : [h("b", {}, "Nobody is connected."), h("p", {}, "A session appears here as soon as glasses connect: ", h("code", {}, "glassbridge edge run"), " on the wearer's machine, with a token from ", h("a", { href: "#/users" }, "Users"), ".")]);
  }

  schedule() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.render());
  }

  /** Only what is in sight is in the page: some rows more than fit. Those that the cloud has not told yet are blank. */
  render() {
    if (this.list.hidden || this.all === null) return;
    const high = this.high();
    this.spacer.style.height = `${this.matching * high}px`;
    this.list.style.height = `${this.matching * high + 2}px`;
    const first = Math.max(0, Math.floor(this.list.scrollTop / high) - 4);
    const last = Math.min(this.matching, Math.ceil((this.list.scrollTop + this.list.clientHeight) / high) + 4);
    this.follow(first, last);
    const wanted = new Map();
    for (let index = first; index < last; index++) {
      const row = this.at(index);
      wanted.set(row ? row.u : index, index);  // a blank row goes by its number
    }
    for (const [key, item] of this.pool) if (!wanted.has(key)) { item.element.remove(); this.pool.delete(key); }
    for (const [key, index] of wanted) {
      const row = this.at(index);
      let item = this.pool.get(key);
      if (!item) { item = row ? this.make(row.u) : { element: h("div.line.blank", { role: "row", "aria-busy": "true" }) }; this.pool.set(key, item); this.spacer.append(item.element); }
      if (item.top !== index * high) { item.top = index * high; item.element.style.transform = `translateY(${item.top}px)`; }
      item.element.classList.toggle("cursor", index === this.cursor);
      item.element.setAttribute("aria-rowindex", String(index + 1));
      if (!row) continue;
      if (item.row !== row) this.fill(item, row);
      // A second is a pixel or less of the strip: scrolling need not draw it again.
      const now = performance.now(), wide = this.list.clientWidth;
      if (item.drawn !== row || item.wide !== wide || now - item.drawnAt > STRIP_MS) {
        Object.assign(item, { drawn: row, wide, drawnAt: now });
        strip(item.strip, row.strip, STRIP_SECONDS, this.colours);
      }
    }
    this.list.setAttribute("aria-rowcount", String(this.matching));
  }

  at(index) { return this.rows.get(this.users[index - this.from]); }

  /** Rows `first` to `last` are in sight: what lies around them is to be here before one scrolls there. */
  follow(first, last) {
    const { from, count } = this.wanted;
    const isNear = (from > 0 && first < from + NEAR) || (from + count < this.matching && last > from + count - NEAR);
    if (!isNear) return;
    this.wanted = { from: Math.max(0, first - AHEAD), count: Math.min(200, last - first + 2 * AHEAD) };
    this.ask();
  }

  high() {
    return matchMedia("(max-width: 760px)").matches ? 92 : 44;
  }

  make(user) {
    const cells = { state: h("span.cell", { role: "cell" }), apps: h("span.cell.apps", { role: "cell" }), model: h("span.cell.model", { role: "cell" }) };
    const node = h("small.hint.node");
    const bar = h("canvas.strip", { role: "cell", "aria-label": "connection over the last 15 minutes" });
    const element = h("a.line", { role: "row", href: `#/session/${encodeURIComponent(user)}`, tabindex: "-1" },
      h("span.cell.user", { role: "cell" }, user, node), cells.state, bar, cells.apps, cells.model);
    return { element, cells, node, strip: bar, row: null, top: null };
  }

  fill(item, row) {
    item.row = row;
    item.element.dataset.state = tone(row.s);
    item.node.textContent = row.n ? ` ${row.n}` : "";
    replace(item.cells.state, chip(row.s), " ", since(row.at));
    item.cells.state.title = row.why ?? "";
    replace(item.cells.apps, row.apps.slice(0, 4).map((app) => h("span.chip.app", { data: { state: tone(app.s) }, title: `${app.p}: ${stateWords(app.s)}${app.why ? ` (${app.why})` : ""}` }, h("span.dot"), short(app.p))),
      row.apps.length > 4 ? h("span.hint", {}, `+${row.apps.length - 4}`) : null);
    replace(item.cells.model, [row.m ?? (row.client ?? "–"), typeof row.bat === "number" && row.bat >= 0 ? ` · ${row.bat} %` : "", tone(row.mic) === "on" ? " · mic" : ""].join(""));
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (event.key === "Enter" && this.chosen) {
      location.hash = `#/session/${encodeURIComponent(this.chosen)}`;
    } else if (step || event.key === "Home" || event.key === "End") {
      const end = this.matching - 1;
      this.cursor = event.key === "Home" ? 0 : event.key === "End" ? end : Math.max(0, Math.min(end, this.cursor + step));
      const high = this.high(), top = this.cursor * high;
      if (top < this.list.scrollTop) this.list.scrollTop = top;
      else if (top + high > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + high - this.list.clientHeight;
      const row = this.at(this.cursor);
      this.chosen = row?.u ?? null;
      if (row) this.total.textContent = `${row.u}, ${stateWords(row.s)}: ${this.cursor + 1} of ${this.matching}`;
      this.render();
    } else return;
    event.preventDefault();
  }
}

//: Members of a session's page that are lanes over time.
const LANE = "lane:";

//: 0 is as long as there is something to see.
const SPANS = [[0, "all"], [300, "5 min"], [900, "15 min"], [3600, "1 h"], [21600, "6 h"]];

function layoutText(layout) {
  if (!layout) return "";
  const parts = [layout.title, layout.text, layout.topText, layout.bottomText, layout.leftText, layout.rightText].filter(Boolean);
  return parts.length ? parts.join("\n") : layout.layoutType === "clear_view" ? "" : `(${layout.layoutType ?? "nothing"})`;
}

export class SessionPage {
  constructor(view, user, cloud) {
    Object.assign(this, { view, user, cloud, page: {}, seconds: 0, lens: cloud.profile === "dev" });
    this.state = h("div.facts");
    this.picture = h("div.picture");
    this.apps = h("div.cards");
    this.glass = h("div.glass", { role: "img", "aria-label": "Lens" });
    this.lensWords = h("p.hint");
    this.arms = h("div.arms");
    const spans = h("div.seg", { role: "group", "aria-label": "Time shown" }, SPANS.map(([seconds, words]) =>
      h("button", { type: "button", "aria-pressed": String(seconds === this.seconds), onclick: (event) => {
        this.seconds = seconds;
        for (const one of event.target.parentNode.children) one.setAttribute("aria-pressed", String(one === event.target));
        this.draw();
      } }, words)));
    this.lensButton = h("button", { type: "button", id: "show-lens", "aria-pressed": String(this.lens), onclick: () => {
      this.lens = !this.lens;
      this.lensButton.setAttribute("aria-pressed", String(this.lens));
      this.lensButton.textContent = this.lens ? "Hide the text" : "Show the text";
      this.open();
    } }, this.lens ? "Hide the text" : "Show the text");
    this.chooser = h("select", { "aria-label": "App to start" });
    replace(view,
      h("div.head", {}, h("a.back", { href: "#/" }, "Sessions"), h("h2", {}, user), h("a.button", { href: `#/trace?user=${encodeURIComponent(user)}` }, "Trace"),
        sure("End session", "Really end it?", () => this.act("DELETE", path("sessions", user), "The session was ended."))),
      this.state,
      h("section.panel", {}, h("h3", {}, "Over time", spans), this.picture),
      h("div.two", {},
        h("section.panel", {}, h("h3", {}, "Lens", this.lensButton), this.glass, this.lensWords),
        h("section.panel", {}, h("h3", {}, "Glasses"), this.arms)),
      h("section.panel", {}, h("h3", {}, "Apps", h("form.row", { onsubmit: (event) => { event.preventDefault(); if (this.chooser.value) this.start(this.chooser.value); } }, this.chooser, h("button", { type: "submit" }, "Start"))), this.apps));
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.picture);
    this.timer = setInterval(() => this.draw(), 1000);
    this.open();
    ask("GET", path("apps")).then(({ apps }) => replace(this.chooser, apps.map((app) => h("option", { value: app.packageName }, app.name || app.packageName))), () => {});
  }

  open() {
    live.look(() => ({ view: "session", user: this.user, lens: this.lens }), (piece) => this.took(piece));
  }

  close() {
    this.resized.disconnect();
    clearInterval(this.timer);
  }

  took(piece) {
    if (piece.reset) this.page = {};
    Object.assign(this.page, piece.set);
    for (const name of piece.drop) delete this.page[name];
    const page = this.page;
    if (page.gone) {
      replace(this.state, h("p.empty", {}, "This user has no session now. It appears as soon as the glasses connect."));
      replace(this.apps); replace(this.arms); replace(this.glass); replace(this.picture);
      return;
    }
    const changed = piece.set;
    this.facts(page);
    if (Object.keys(changed).some((name) => name.startsWith(LANE))) this.draw();
    if ("apps" in changed) this.showApps(page.apps);
    this.showArms(page);
    this.showLens(page);
  }

  facts(page) {
    const fact = (name, ...value) => h("div.fact", {}, h("dt", {}, name), h("dd", {}, ...value));
    replace(this.state,
      fact("Session", chip(page.state), " for ", since(page.at)),
      fact("Why", page.reason || "–"),
      page.node ? fact("Node", page.node) : null,
      fact("Glasses", page.model ?? "unknown", typeof page.battery === "number" && page.battery >= 0 ? `, ${page.battery} %` : ""),
      fact("Client", page.client ?? "none", page.remote ? ` from ${page.remote}` : ""),
      fact("Microphone", chip(page.microphone), page.speech?.length ? ` ${page.speech.join(", ")}` : ""),
      page.link?.sequenced ? fact("Link", page.link.state, page.link.backlog ? `, ${page.link.backlog} waiting` : "") : null,
      page.clock ? fact("Way to the edge", `${page.clock.rtt_ms} ms there and back`, `, its clock ${Math.abs(Math.round(page.clock.offset_ms))} ms ${page.clock.offset_ms > 0 ? "behind" : "ahead"} (± ${Math.ceil(page.clock.error_ms)})`) : null,
      page.audio?.frames ? fact("Audio", `${page.audio.frames.toLocaleString("en")} frames`, page.audio.gaps ? `, ${page.audio.gaps} gaps` : "") : null);
  }

  draw() {
    const told = Object.entries(this.page).filter(([name]) => name.startsWith(LANE)).map(([name, states]) => [name.slice(LANE.length), states]);
    if (!told.length || !this.picture.clientWidth) return;
    const order = ["glasses", "microphone"];
    const entries = told.sort(([a], [b]) => (order.indexOf(a) + 9) % 9 - (order.indexOf(b) + 9) % 9 || (a < b ? -1 : 1));
    const first = Math.min(...entries.map(([, states]) => states[0]?.at ?? Infinity));
    const all = Math.max(12, (server.now() - first) * 1.03);
    lanes(this.picture, Object.fromEntries(entries), this.seconds || all, (lane) => (order.includes(lane) ? lane : short(lane)));
  }

  showLens(page) {
    const owner = page.lens_owner?.main;
    this.glass.classList.toggle("covered", !this.lens);
    const text = this.lens ? layoutText(page.lens?.main) : "";
    this.glass.textContent = this.lens ? text : owner ? "▒▒▒▒▒▒▒▒▒▒\n▒▒▒▒▒▒" : "";
    this.glass.setAttribute("aria-label", this.lens ? `On the lens: ${text || "nothing"}` : "The text is hidden");
    const own = owner ? [`shown by ${short(owner)}`] : ["nothing is to be shown"];
    if (!this.lens) own.push(" · what a wearer reads is his; look only if you must");
    if (this.cloud.lens && page.edge?.simulated) own.push(" · ", h("a", { href: "/" }, "open the lens page"));
    replace(this.lensWords, own);
  }

  showArms(page) {
    const arms = Object.entries(page.edge?.arms ?? {});
    replace(this.arms, arms.length
      ? arms.map(([side, arm]) => h("div.arm", {}, h("b", {}, side), chip(arm.state, arm.state.replaceAll("_", " ")),
        h("span.hint", {}, [arm.reason, typeof arm.battery === "number" ? `battery ${arm.battery} %` : null, typeof arm.rssi === "number" ? `${arm.rssi} dBm` : null, arm.mtu ? `MTU ${arm.mtu}` : null].filter(Boolean).join(" · "))))
      : h("p.hint", {}, page.client === "edge" ? "The edge has not told about its arms yet." : "This client does not tell about the arms; our edge does."));
  }

  showApps(apps) {
    const rank = { error: 0, grace: 1, loading: 2, connecting: 2, connected: 3, stopping: 4, disconnected: 5 };
    const sorted = [...apps].sort((a, b) => (rank[a.state] ?? 9) - (rank[b.state] ?? 9) || (a.package < b.package ? -1 : 1));
    replace(this.apps, sorted.length ? sorted.map((app) => h("article.card", { data: { state: tone(app.state), package: app.package } },
      h("div.card-head", {}, chip(app.state), h("a", { href: `#/apps/${encodeURIComponent(app.package)}` }, app.package), app.at ? h("span.hint", {}, "for ", since(app.at)) : null,
        h("span.grow"),
        app.wanted ? h("button", { type: "button", onclick: () => this.act("POST", path("sessions", this.user, "apps", app.package, "stop"), `${short(app.package)} was stopped.`) }, "Stop")
          : h("button", { type: "button", onclick: () => this.start(app.package) }, "Start"),
        app.state === "error" ? h("button", { type: "button", onclick: () => this.start(app.package) }, "Try now") : null),
      h("p.why", {}, app.reason ?? "", app.attempt ? ` · attempt ${app.attempt}` : "", app.next_attempt_at ? [" · next ", h("span.num", { data: { until: String(app.next_attempt_at) } }, "")] : null),
      app.last_error ? h("p.fault", {}, app.last_error) : null,
      app.subscriptions?.length ? h("p.hint", {}, "listens to ", app.subscriptions.join(", ")) : null)) : h("p.hint", {}, "No app was started in this session."));
    ages(this.apps);
  }

  start(name) {
    tell(`Starting ${short(name)} …`);
    return this.act("POST", path("sessions", this.user, "apps", name, "start"), `${short(name)} runs.`);
  }

  async act(method, where, words) {
    try {
      await ask(method, where);
      tell(words);
    } catch (error) {
      tell(error.message, true);
    }
  }
}
