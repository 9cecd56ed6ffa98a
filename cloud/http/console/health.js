// How the process fares: the last hour in small plots, what /readyz says, where audio goes, and in a cluster a line for each node.

import { chip, h, replace, sure, tell } from "./dom.js";
import { amount, bars, plot } from "./draw.js";
import { ask, live, path } from "./live.js";

//: As many as the cloud keeps.
const SAMPLES_MAX = 720;

const PLOTS = [
  { name: "lag_ms", title: "Event loop lag", about: "worst of 5 s; above 500 ms new work is refused", unit: "ms", good: 500, floor: 10 },
  { name: "backlog_bytes", title: "Queues", about: "bytes that wait for peers to read them", unit: "bytes", floor: 1000 },
  { name: "webhook_ms", title: "Webhook latency", about: "mean time until apps answer; gaps: none was sent", unit: "ms", floor: 10 },
  { name: "webhook_failures", title: "Webhook failures", about: "no good answer from an app", counts: true },
  { name: "sessions", title: "Sessions", about: "with glasses connected", unit: "" },
  { name: "detached", title: "Away", about: "sessions in grace, waiting for their glasses", unit: "" },
  { name: "reconnects", title: "Reconnects", about: "glasses and apps that came back", counts: true },
  { name: "disconnects", title: "Disconnects", about: "sockets that ended", counts: true },
  { name: "events_delivered", title: "Events to apps", about: "one for each app that was told", counts: true },
];

export class Health {
  constructor(view, cloud) {
    this.samples = [];
    this.checks = h("div.facts");
    this.nodes = h("tbody");
    const words = ["Node", "Admission", "Storage", "Event loop lag", "Sessions"];
    this.table = h("section.panel", { id: "nodes", hidden: true }, h("h3", {}, "Nodes"), h("table", {}, h("thead", {}, h("tr", {}, words.map((word) => h("th", {}, word)))), this.nodes),
      h("p.hint", {}, `The checks above and the plots below are those of ${cloud.node}.`));
    this.boxes = new Map();
    const figures = PLOTS.map((one) => {
      const box = h("div.plot"), now = h("output.num", {}, "–");
      this.boxes.set(one.name, { box, now });
      return h("figure.panel", { data: { plot: one.name } }, h("figcaption", {}, h("b", {}, one.title), now, h("small.hint", {}, one.about)), box);
    });
    this.waiting = h("p.hint", {}, "The first sample comes a few seconds after the start; they go back one hour.");
    replace(view, h("div.head", {}, h("h2", {}, "Health"), h("span.grow"), h("a.button", { href: "/metrics" }, "Metrics"),
      // In `dev` there is nobody who would bring the cloud back.
      cloud.profile === "dev" ? null : sure("Drain", "Close all connections?", () => this.drain())), this.checks, this.table, this.waiting, h("div.plots", {}, figures));
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(view);
    this.timer = setInterval(() => this.check(), 5000);
    this.check();
    live.look(() => ({ view: "health" }), (piece) => this.took(piece));
  }

  close() {
    this.resized.disconnect();
    clearInterval(this.timer);
  }

  took(piece) {
    if (piece.type === "nodes") { this.told(piece.nodes); return; }
    if (piece.reset) this.samples = [];
    this.samples.push(...piece.samples);
    this.samples.splice(0, Math.max(0, this.samples.length - SAMPLES_MAX));
    this.waiting.hidden = this.samples.length > 0;
    this.draw();
  }

  told(nodes) {
    this.table.hidden = !nodes.length;
    replace(this.nodes, nodes.map((node) => h("tr", { data: { node: node.node } }, h("td", {}, node.node),
      h("td", {}, chip(node.draining || node.admission === "shedding" ? "grace" : node.admission === "normal" ? "ok" : "error", node.draining ? "draining" : node.admission ?? "unknown")),
      h("td", {}, chip(node.storage === "ok" ? "ok" : "error", node.storage)), h("td.num", {}, amount(node.lag_ms, "ms")), h("td.num", {}, amount(node.sessions)))));
  }

  async drain() {
    try {
      await ask("POST", path("drain"));
      tell("Draining: everybody is told to come back.");
    } catch (error) { tell(error.message, true); }
  }

  draw() {
    if (!this.samples.length) return;
    for (const one of PLOTS) {
      const { box, now } = this.boxes.get(one.name);
      const points = this.samples.map((sample) => [sample.at, sample[one.name]]);
      now.textContent = one.counts ? `${amount(bars(box, points, one))} in the last minute` : amount(plot(box, points, one), one.unit);
    }
  }

  async check() {
    const fact = (name, ...value) => h("div.fact", {}, h("dt", {}, name), h("dd", {}, ...value));
    try {
      // /readyz answers 503 with its findings when something is wrong: that is an answer, too.
      const reply = await fetch("/readyz", { cache: "no-store", credentials: "omit" });
      const { status, checks } = await reply.json();
      const speech = await ask("GET", path("speech"));
      replace(this.checks, fact("Ready", chip(reply.ok ? "ok" : "error", status)),
        Object.entries(checks).map(([name, words]) => fact(name, chip(words === "ok" ? "ok" : "error", words))),
        fact("Speech", speech.provider, speech.where ? `, audio goes to ${speech.where}` : ", audio stays here"));
    } catch { replace(this.checks, fact("Ready", chip("error", "no answer"))); }
  }
}
