// How the process fares: the last hour in small plots, what /readyz says, and where audio goes.

import { chip, h, replace, sure, tell } from "./dom.js";
import { amount, plot } from "./draw.js";
import { ask, live, path } from "./live.js";

//: As many as the cloud keeps.
const SAMPLES_MAX = 720;

const PLOTS = [
  { name: "lag_ms", title: "Event loop lag", about: "worst of 5 s; above 500 ms new work is refused", unit: "ms", good: 500, floor: 10 },
  { name: "backlog_bytes", title: "Queues", about: "bytes that wait for peers to read them", unit: "bytes", floor: 1000 },
  { name: "webhook_ms", title: "Webhook latency", about: "mean time until apps answer; gaps: none was sent", unit: "ms", floor: 10 },
  { name: "webhook_failures", title: "Webhook failures", about: "per minute", unit: "/min" },
  { name: "sessions", title: "Sessions", about: "with glasses connected", unit: "" },
  { name: "detached", title: "Away", about: "sessions in grace, waiting for their glasses", unit: "" },
  { name: "reconnects", title: "Reconnects", about: "glasses and apps that came back, per minute", unit: "/min" },
  { name: "disconnects", title: "Disconnects", about: "sockets that ended, per minute", unit: "/min" },
  { name: "events_delivered", title: "Events to apps", about: "per minute", unit: "/min" },
];

export class Health {
  constructor(view, cloud) {
    this.samples = [];
    this.checks = h("div.facts");
    this.boxes = new Map();
    const figures = PLOTS.map((one) => {
      const box = h("div.plot"), now = h("output.num", {}, "–");
      this.boxes.set(one.name, { box, now });
      return h("figure.panel", { data: { plot: one.name } }, h("figcaption", {}, h("b", {}, one.title), now, h("small.hint", {}, one.about)), box);
    });
    this.waiting = h("p.hint", {}, "The first sample comes a few seconds after the start; they go back one hour.");
    replace(view, h("div.head", {}, h("h2", {}, "Health"), h("span.grow"), h("a.button", { href: "/metrics" }, "Metrics"),
      // In `dev` there is nobody who would bring the cloud back.
      cloud.profile === "dev" ? null : sure("Drain", "Close all connections?", () => this.drain())), this.checks, this.waiting, h("div.plots", {}, figures));
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
    if (piece.reset) this.samples = [];
    this.samples.push(...piece.samples);
    this.samples.splice(0, Math.max(0, this.samples.length - SAMPLES_MAX));
    this.waiting.hidden = this.samples.length > 0;
    this.draw();
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
      now.textContent = amount(plot(box, this.samples.map((sample) => [sample.at, sample[one.name]]), one), one.unit);
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
