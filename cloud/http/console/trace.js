// The event trace: what happened, in order, with filters, the time of each hop, and Replay of what came from the glasses.

import { clock, h, replace, tell } from "./dom.js";
import { Stream, ask, path } from "./live.js";

//: The cloud keeps 2,000 records; more would only be ballast here as well.
const KEPT_MAX = 2000;
const SHOWN_MAX = 300;

const GROUPS = {
  all: ["everything", () => true],
  exchange: ["exchanges", (kind) => ["from_glasses", "to_app", "display", "display_settled", "display_result"].includes(kind)],
  apps: ["apps and webhooks", (kind) => ["app", "webhook", "start_failed", "app_closed", "ownership_release", "permission_denied"].includes(kind)],
  links: ["connections", (kind) => ["glasses_connected", "glasses_lost", "link_resumed", "link_gave_up", "session_ended", "takeover_refused", "edge_status", "model"].includes(kind)],
  faults: ["faults", (kind, event) => /fail|bad_|denied|refused|gave_up|dropped|slow/.test(kind) || event.after === "error" || event.error || (event.outcome === "refused")],
};

const WORDS = {
  from_glasses: "from glasses", to_app: "to apps", display_settled: "display decided", display_result: "on the lens",
  glasses_connected: "glasses connected", glasses_lost: "glasses lost", link_resumed: "link resumed", link_gave_up: "link gave up",
  session_ended: "session ended", start_failed: "start failed", app_closed: "app closed", edge_status: "edge status", permission_denied: "permission denied",
};

const TONE = (event) => {
  if (GROUPS.faults[1](event.kind, event)) return "bad";
  if (/lost|ended|grace/.test(event.kind) || ["grace", "loading"].includes(event.after)) return "wait";
  return /connected|resumed|display_result/.test(event.kind) || event.after === "connected" ? "on" : "off";
};

const OWN = new Set(["seq", "at", "user", "kind", "hops", "text", "layout"]);
const ms = (seconds) => (seconds * 1000 < 10 ? (seconds * 1000).toFixed(1) : Math.round(seconds * 1000)) + " ms";

function details(event) {
  if (event.kind === "app") return [`${event.package}: ${event.before} → ${event.after}`, event.reason ? `(${event.reason})` : ""].join(" ");
  if (event.kind === "webhook") return `${event.package} ${event.type}: ${event.status ?? event.error} in ${event.ms} ms`;
  if (event.kind === "display") return `${event.package} on ${event.view}, number ${event.id}`;
  if (event.kind === "display_settled") return `${event.package}, number ${event.id}: ${event.outcome}${event.reason ? ` (${event.reason})` : ""}${event.outcome === "shown" ? ` after ${ms(event.waited)}` : ""}`;
  if (event.kind === "display_result") return `number ${event.id}: ${event.outcome}${event.reason ? ` (${event.reason})` : ""}`;
  if (event.kind === "from_glasses") return `${event.about}, ${event.bytes} bytes`;
  if (event.kind === "to_app") return `${event.about} to ${event.apps} ${event.apps === 1 ? "app" : "apps"}, ${event.bytes} bytes`;
  if (event.kind === "start_failed") return `${event.package}: ${event.why}`;
  if (event.kind === "microphone") return event.on ? "on" : "off";
  return Object.entries(event).filter(([key, value]) => !OWN.has(key) && value !== null && value !== "" && value !== undefined)
    .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? Math.round(value * 1000) / 1000 : value}`).join(" · ");
}

/** Joins the records of one exchange per user, so that the one that ends it can show the way and the time of each hop. */
class Exchanges {
  constructor() { this.users = new Map(); }

  add(event) {
    const user = this.users.get(event.user) ?? { displays: new Map() };
    this.users.set(event.user, user);
    if (event.kind === "from_glasses") user.input = event;
    else if (event.kind === "to_app" && event.apps) user.event = { at: event.at, about: event.about, input: user.input && event.at - user.input.at < 1 ? user.input : null };
    else if (event.kind === "display" && event.view === "main" && user.event && event.at - user.event.at < 2) {
      user.displays.set(String(event.id), { at: event.at, package: event.package, event: user.event });
      user.event = null;
      if (user.displays.size > 64) user.displays.delete(user.displays.keys().next().value);
    } else if (event.kind === "display_settled" && user.displays.has(String(event.id))) user.displays.get(String(event.id)).waited = event.waited;
    else if (event.kind === "display_result") {
      const display = user.displays.get(String(event.id));
      user.displays.delete(String(event.id));
      if (!display || event.outcome !== "shown") return;
      const waited = display.waited ?? 0;
      event.hops = [
        display.event.input ? ["cloud", display.event.at - display.event.input.at] : null,
        [`app ${display.package.split(".").at(-1)}`, Math.max(0, display.at - display.event.at - waited)],
        ["screen's turn", waited],
        typeof event.edge_ms === "number" ? ["edge", event.edge_ms / 1000] : null,
        typeof event.ble_ms === "number" ? ["Bluetooth, lens", event.ble_ms / 1000] : null,
      ].filter(Boolean);
      event.about = display.event.about;
    }
  }
}

export class Trace {
  constructor(view, query) {
    this.events = [];
    this.last = 0;
    this.held = false;
    this.exchanges = new Exchanges();
    this.search = h("input", { type: "search", placeholder: "user, package, kind …", "aria-label": "Filter the trace", value: query.get("user") ?? "", oninput: () => this.render() });
    this.group = h("select", { "aria-label": "Which events", onchange: () => this.render() }, Object.entries(GROUPS).map(([key, [words]]) => h("option", { value: key }, words)));
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => { this.held = !this.held; this.pause.setAttribute("aria-pressed", String(this.held)); this.pause.textContent = this.held ? "Go on" : "Pause"; this.render(); } }, "Pause");
    this.total = h("output.hint", {});
    this.list = h("ol.trace", { "aria-label": "Events, newest first" });
    replace(view, h("div.head", {}, h("h2", {}, "Trace"), this.search, this.group, this.pause, this.total), this.list,
      h("p.hint", {}, "What was said, typed or shown is not in the trace, only its size. Messages to apps are noted while somebody watches."));
    this.stream = new Stream(() => ({ view: "trace", since: this.last }), (piece) => this.took(piece));
  }

  close() {
    this.stream.close();
    cancelAnimationFrame(this.frame);
  }

  took(piece) {
    if (piece.type !== "trace") return;
    for (const event of piece.events) {
      this.exchanges.add(event);
      this.events.push(event);
    }
    this.last = piece.events.at(-1).seq;
    this.events.splice(0, Math.max(0, this.events.length - KEPT_MAX));
    if (!this.held) { cancelAnimationFrame(this.frame); this.frame = requestAnimationFrame(() => this.render()); }
  }

  render() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = GROUPS[this.group.value][1];
    const found = [];
    for (let index = this.events.length - 1; index >= 0 && found.length < SHOWN_MAX; index--) {
      const event = this.events[index];
      if (!fits(event.kind, event)) continue;
      if (words.length) {
        event.text ??= `${event.user} ${event.kind} ${WORDS[event.kind] ?? ""} ${details(event)}`.toLowerCase();
        if (!words.every((word) => event.text.includes(word))) continue;
      }
      found.push(event);
    }
    this.total.textContent = `${found.length}${found.length === SHOWN_MAX ? " newest" : ""} of ${this.events.length}`;
    // Keep what is there: a list that is made anew loses the focus of the reader.
    const before = new Map([...this.list.children].map((item) => [item.dataset.seq, item]));
    replace(this.list, found.length ? found.map((event) => before.get(String(event.seq)) ?? this.line(event)) : h("li.empty", {}, "Nothing yet."));
  }

  line(event) {
    const summary = [h("time", {}, clock(event.at, true)), h("span.kind", { data: { state: TONE(event) } }, h("span.dot"), WORDS[event.kind] ?? event.kind.replaceAll("_", " ")), h("span.who", { title: event.user }, event.user), h("span.what", {}, details(event))];
    return h("li", { data: { seq: String(event.seq), kind: event.kind } }, ...summary,
      event.kind === "from_glasses" ? h("button.small", { type: "button", onclick: () => this.replay(event) }, "Replay") : null,
      event.hops ? this.hops(event) : null);
  }

  hops(event) {
    const total = event.hops.reduce((sum, [, seconds]) => sum + seconds, 0);
    return h("div.hops", { role: "img", "aria-label": `${event.about ?? "event"} to lens in ${ms(total)}: ${event.hops.map(([who, seconds]) => `${who} ${ms(seconds)}`).join(", ")}` },
      h("b", {}, `${event.about ?? "event"} to lens ${ms(total)}`), event.hops.map(([who, seconds], index) => {
        const bar = h(`span.hop.hop-${index % 5}`, {}, h("i"), `${who} ${ms(seconds)}`);
        bar.firstChild.style.width = `${Math.max(2, (seconds / (total || 1)) * 140)}px`;
        return bar;
      }));
  }

  async replay(event) {
    try {
      await ask("POST", path("trace", String(event.seq), "replay"));
      tell("Sent again.");
    } catch (error) { tell(error.message, true); }
  }
}
