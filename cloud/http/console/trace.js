// The event trace: what happened, in order, with filters, the time of each hop, and Replay of what came from the glasses.

import { clock, h, replace, tell } from "./dom.js";
import { ask, live, path } from "./live.js";

//: As many as the cloud tells at once.
const SHOWN_MAX = 300;

const TONE = (event) => {
  if (event.fault) return "bad";
  if (/lost|ended|grace/.test(event.kind) || ["grace", "loading"].includes(event.after)) return "wait";
  return /connected|resumed|display_result|exchange/.test(event.kind) || event.after === "connected" ? "on" : "off";
};

const OWN = new Set(["seq", "own", "node", "at", "user", "kind", "hops", "fault"]);
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
  constructor(view, query, cloud) {
    this.kinds = cloud.trace.kinds;
    this.node = cloud.node;
    this.events = [];
    this.seen = this.missed = 0;
    this.held = false;
    this.search = h("input", { type: "search", placeholder: "user, package, kind …", "aria-label": "Filter the trace", maxlength: "200", value: query.get("user") ?? "", oninput: () => this.seek() });
    this.group = h("select", { "aria-label": "Which events", onchange: () => this.seek() }, Object.entries(cloud.trace.groups).map(([key, words]) => h("option", { value: key }, words)));
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => { this.held = !this.held; this.pause.setAttribute("aria-pressed", String(this.held)); this.pause.textContent = this.held ? "Go on" : "Pause"; this.render(); } }, "Pause");
    this.total = h("output.hint", {});
    this.list = h("ol.trace", { "aria-label": "Events, newest first" });
    replace(view, h("div.head", {}, h("h2", {}, "Trace"), this.search, this.group, this.pause, this.total), this.list,
      h("p.hint", {}, "What was said, typed or shown is not in the trace, only its size. Messages to apps are noted while somebody watches."));
    this.open();
  }

  open() {
    live.look(() => ({ view: "trace", search: this.search.value, group: this.group.value }), (piece) => this.took(piece));
  }

  /** The cloud does the filtering; a short pause, so that it need not for every letter. */
  seek() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), 150);
  }

  close() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
  }

  took(piece) {
    if (piece.reset) { this.events = []; this.seen = this.missed = 0; }
    this.events.push(...piece.events);
    // Of several nodes each tells of its own once a second: what belongs before what is here already comes later.
    if (this.node) this.events.sort((a, b) => a.at - b.at);
    this.events.splice(0, Math.max(0, this.events.length - SHOWN_MAX));
    this.seen += piece.seen;
    this.missed += piece.missed ?? 0;
    if (!this.held || piece.reset) { cancelAnimationFrame(this.frame); this.frame = requestAnimationFrame(() => this.render()); }
  }

  render() {
    const found = this.events.toReversed();
    this.total.textContent = `${found.length}${found.length === SHOWN_MAX ? " newest" : ""} of ${this.seen}${this.missed ? `; ${this.missed} went by too fast to be shown` : ""}`;
    // Keep what is there: a list that is made anew loses the focus of the reader.
    const before = new Map([...this.list.children].map((item) => [item.dataset.seq, item]));
    replace(this.list, found.length ? found.map((event) => before.get(String(event.seq)) ?? this.line(event)) : h("li.empty", {}, this.search.value || this.group.value !== "all" ? "Nothing fits." : "Nothing yet."));
  }

  line(event) {
    const summary = [h("time", {}, clock(event.at, true)), h("span.kind", { data: { state: TONE(event) } }, h("span.dot"), this.kinds[event.kind] ?? event.kind.replaceAll("_", " ")), h("span.who", { title: event.user }, event.user), h("span.what", {}, details(event), event.node ? h("small.hint.node", {}, ` ${event.node}`) : null)];
    return h("li", { data: { seq: String(event.seq), kind: event.kind } }, ...summary,
      // What another node kept, only that one can send again.
      event.kind === "from_glasses" && (event.node ?? null) === this.node ? h("button.small", { type: "button", onclick: () => this.replay(event) }, "Replay") : null,
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
      await ask("POST", path("trace", String(event.own ?? event.seq), "replay"));
      tell("Sent again.");
    } catch (error) { tell(error.message, true); }
  }
}
