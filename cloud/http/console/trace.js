// The event trace: what happened, in order, with filters, the time of each hop, and Replay of what came from the glasses.

import { clock, h, replace, tell } from "./dom.js";
import { Stream, ask, path } from "./live.js";

//: The cloud keeps 2,000 records; more would only be ballast here as well.
const KEPT_MAX = 2000;
const SHOWN_MAX = 300;

const GROUPS = {
  all: ["everything", () => true],
  exchange: ["exchanges", (kind) => ["from_glasses", "transcript", "to_app", "display", "display_settled", "display_result", "exchange"].includes(kind)],
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
  return /connected|resumed|display_result|exchange/.test(event.kind) || event.after === "connected" ? "on" : "off";
};

const OWN = new Set(["seq", "at", "user", "kind", "hops", "text", "layout"]);
const ms = (seconds) => (seconds < 0.001 ? "< 1" : seconds * 1000 < 10 ? (seconds * 1000).toFixed(1) : Math.round(seconds * 1000)) + " ms";

function details(event) {
  if (event.kind === "app") return [`${event.package}: ${event.before} → ${event.after}`, event.reason ? `(${event.reason})` : ""].join(" ");
  if (event.kind === "webhook") return `${event.package} ${event.type}: ${event.status ?? event.error} in ${event.ms} ms`;
  if (event.kind === "display") return `${event.package} on ${event.view}, number ${event.id}`;
  if (event.kind === "display_settled") return `${event.package}, number ${event.id}: ${event.outcome}${event.reason ? ` (${event.reason})` : ""}${event.outcome === "shown" ? ` after ${ms(event.waited)}` : ""}`;
  if (event.kind === "display_result") return `number ${event.id}: ${event.outcome}${event.reason ? ` (${event.reason})` : ""}${typeof event.downlink_ms === "number" ? `, ${ms(event.downlink_ms / 1000)} on its way` : ""}`;
  if (event.kind === "from_glasses") return `${event.about}, ${event.bytes} bytes${typeof event.uplink_ms === "number" ? `, ${ms(event.uplink_ms / 1000)} on its way` : ""}`;
  if (event.kind === "transcript") return `${event.language}, by ${event.provider}${typeof event.provider_ms === "number" ? ` ${ms(event.provider_ms / 1000)} after the last word` : ""}`;
  if (event.kind === "exchange") return `${event.about} answered by ${event.package}: on the lens after ${ms(event.total_ms / 1000)}`;
  if (event.kind === "to_app") return `${event.about} to ${event.apps} ${event.apps === 1 ? "app" : "apps"}, ${event.bytes} bytes`;
  if (event.kind === "start_failed") return `${event.package}: ${event.why}`;
  if (event.kind === "microphone") return event.on ? "on" : "off";
  return Object.entries(event).filter(([key, value]) => !OWN.has(key) && value !== null && value !== "" && value !== undefined)
    .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? Math.round(value * 1000) / 1000 : value}`).join(" · ");
}

export class Trace {
  constructor(view, query) {
    this.events = [];
    this.last = 0;
    this.held = false;
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
    const total = event.total_ms / 1000;
    const hops = event.hops.slice(1); // the first is where it began
    const words = (hop) => (typeof hop.ms === "number" ? ms(hop.ms / 1000) : "not measured");
    return h("div.hops", { role: "img", "aria-label": `${event.about} to lens in ${ms(total)}: ${hops.map((hop) => `${hop.who} (${hop.what}) ${words(hop)}`).join(", ")}` },
      h("b", {}, `${event.hops[0].who}`), hops.map((hop, index) => {
        const bar = h(`span.hop.hop-${index % 5}`, { title: [hop.what, hop.note].filter(Boolean).join("; ") }, h("i"), `${hop.who} ${words(hop)}`);
        bar.firstChild.style.width = `${Math.max(2, ((hop.ms ?? 0) / (event.total_ms || 1)) * 140)}px`;
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
