// The lens page: shows the simulator's framebuffers bit by bit and sends it what a wearer would do.
//
// Rules: no library, no build, no request to another host. The pixels are the firmware's, at its size; the browser
// only enlarges them. State comes by server-sent events: first all of it, then each change. Words that are shown on the
// lens go into the page as text, never as HTML.

const SIDES = ["left", "right"];
const FRESH_MS = 1000; // how long a change stays marked
const CHANGES_MAX = 7;
const LIT = [67, 233, 123];
const NEW = [214, 255, 226]; // a pixel that was lit within the last second
const GONE = [28, 74, 46]; // a pixel that went dark within the last second

const byId = (id) => document.getElementById(id);
const state = { sim: null, mic: null, cloud: null };

// --- lens -----------------------------------------------------------------------------------------------------------

class Lens {
  constructor(side) {
    this.side = side;
    this.figure = byId(`lens-${side}`);
    this.canvas = byId(`canvas-${side}`);
    this.caption = byId(`caption-${side}`);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.bits = null; // one byte a pixel: lit or not
    this.changedAt = null; // when each pixel last changed
    this.version = -1; // of the framebuffer that is drawn
    this.wanted = -1; // of the newest framebuffer that we know of
    this.loading = false;
    this.clear(576, 136);
  }

  clear(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.bits = new Uint8Array(width * height);
    this.changedAt = new Float64Array(width * height).fill(-Infinity);
    this.draw();
    fit();
  }

  async load(version) {
    this.wanted = Math.max(this.wanted, version);
    if (this.loading) return; // the running request looks again when it is done
    this.loading = true;
    try {
      while (this.version < this.wanted && device()?.display) {
        const reply = await fetch(`/api/sim/framebuffer?side=${this.side}`, { cache: "no-store" });
        if (!reply.ok) break;
        const got = Number(reply.headers.get("X-Version"));
        const size = [Number(reply.headers.get("X-Width")), Number(reply.headers.get("X-Height"))];
        this.take(new Uint8Array(await reply.arrayBuffer()), ...size);
        this.version = Math.max(got, this.wanted);
      }
    } catch {
      // The event stream notices that the server is gone, and says so.
    } finally {
      this.loading = false;
    }
  }

  take(packed, width, height) {
    if (width !== this.canvas.width || height !== this.canvas.height) this.clear(width, height);
    const now = performance.now();
    const stride = (width + 7) >> 3;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const lit = (packed[y * stride + (x >> 3)] >> (7 - (x & 7))) & 1;
        const at = y * width + x;
        if (this.bits[at] !== lit) {
          this.bits[at] = lit;
          this.changedAt[at] = now;
        }
      }
    }
    this.draw();
    clearTimeout(this.settle);
    this.settle = setTimeout(() => this.draw(), FRESH_MS + 20);
  }

  draw() {
    const { width, height } = this.canvas;
    const image = this.context.createImageData(width, height);
    const now = performance.now();
    let fresh = false;
    for (let at = 0; at < width * height; at++) {
      const recent = now - this.changedAt[at] < FRESH_MS;
      fresh ||= recent;
      const colour = this.bits[at] ? (recent ? NEW : LIT) : recent ? GONE : [0, 0, 0];
      image.data.set(colour, at * 4);
      image.data[at * 4 + 3] = 255;
    }
    this.context.putImageData(image, 0, 0);
    this.figure.classList.toggle("changed", fresh);
  }
}

/** Enlarges both canvases by a whole number of device pixels where there is room, so that no pixel is wider than another. */
function fit() {
  for (const lens of Object.values(lenses)) {
    const box = lens.canvas.parentElement;
    const style = getComputedStyle(box);
    const room = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const ratio = window.devicePixelRatio || 1;
    const exact = (room * ratio) / lens.canvas.width;
    const whole = Math.floor(exact);
    // On a phone a whole number would waste half of the screen; its pixels are small enough to be uneven.
    const scale = whole >= 1 && whole / exact > 2 / 3 ? whole : exact;
    lens.canvas.style.width = `${(lens.canvas.width * scale) / ratio}px`;
    lens.canvas.classList.toggle("shrunk", scale < 1);
  }
}

const lenses = {};
for (const side of SIDES) lenses[side] = new Lens(side);
new ResizeObserver(fit).observe(document.body);

// --- state ----------------------------------------------------------------------------------------------------------

function device() {
  return state.sim?.devices?.[0] ?? null;
}

function showState() {
  const glasses = device();
  if (!glasses) return;
  byId("model").textContent = `${modelName(glasses.model)} · ${glasses.id}`;
  for (const side of SIDES) showArm(side, armOf(glasses, side));
  // Glasses with a single radio: one lens, one link, and inputs without a side.
  const one = isOne(glasses);
  document.body.classList.toggle("one", one);
  document.body.classList.toggle("blind", !glasses.display);
  byId("blind").textContent = glasses.display ? "" : `${modelName(glasses.model)} has no display: tap, speak, or let an app take a photo.`;
  const microphone = glasses.microphone?.on;
  link("mic", microphone ? "on" : "off", microphone ? "microphone on" : "microphone off");
  const battery = batteryOf(glasses);
  if (battery !== null && document.activeElement !== byId("battery")) {
    byId("battery").value = battery;
    byId("battery-value").value = `${battery} %`;
  }
  const worn = glasses.state?.worn ?? true;
  byId("wear").setAttribute("aria-pressed", String(worn));
  byId("wear").firstChild.textContent = worn ? "Worn " : "Taken off ";
  byId("press").hidden = glasses.model === "g1";
  showText(glasses);
}

function isOne(glasses) {
  return Object.keys(glasses?.arms ?? {}).length === 1;
}

function modelName(model) {
  return { g1: "Even Realities G1", live: "Mentra Live", nex: "Mentra Nex", frame: "Brilliant Frame" }[model] ?? model;
}

function armOf(glasses, side) {
  const names = Object.keys(glasses.arms);
  return glasses.arms[side] ?? (names.length === 1 && side === "left" ? glasses.arms[names[0]] : null);
}

function batteryOf(glasses) {
  const battery = glasses.state?.battery;
  if (typeof battery === "number") return battery;
  const levels = Object.values(battery ?? {}).filter((level) => typeof level === "number");
  return levels.length ? Math.min(...levels) : null;
}

function showArm(side, arm) {
  const lens = lenses[side];
  const connected = arm?.state === "connected";
  lens.figure.classList.toggle("dark", !connected);
  const name = isOne(device()) ? "glasses" : `${side} arm`;
  link(side, connected ? "on" : arm?.state === "advertising" ? "wait" : "off", `${name} ${arm?.state ?? ""}`);
  if (!arm) return;
  const battery = device().state?.battery?.[side];
  const parts = [connected ? `MTU ${arm.mtu}` : arm.state];
  if (typeof battery === "number") parts.push(`battery ${battery} %`);
  if (arm.lens?.lit_at_ms) parts.push(`frame ${arm.lens.frame}`);
  lens.caption.textContent = parts.join(" · ");
}

function showText(glasses) {
  const texts = Object.values(glasses.arms).map((arm) => arm.lens?.text ?? "");
  const spoken = byId("lens-text");
  if (spoken.textContent !== texts[0]) spoken.textContent = texts[0];
  for (const side of SIDES) {
    const text = armOf(glasses, side)?.lens?.text;
    lenses[side].canvas.setAttribute("aria-label", `${side} lens: ${text || "dark"}`);
  }
  const differ = new Set(texts).size > 1;
  clearTimeout(showText.timer);
  if (!differ) byId("differ").hidden = true;
  // The arms are written one after the other; only a difference that stays is one.
  else showText.timer = setTimeout(() => (byId("differ").hidden = false), FRESH_MS);
}

function link(name, value, words) {
  const item = byId(`link-${name}`);
  item.dataset.state = value;
  item.lastChild.textContent = words;
}

function took(message) {
  const glasses = state.sim?.devices?.find((one) => one.id === message.device);
  if (!glasses) return;
  state.sim.version = message.version;
  switch (message.kind) {
    case "lens":
      lensChanged(glasses, message);
      break;
    case "microphone":
      changed("mic", `microphone ${message.on ? "on" : "off"}`);
      break;
    case "spoken":
      changed("", `said: ${message.spoken.text}`);
      break;
    case "sound":
      changed("", `WAV of ${message.seconds.toFixed(1)} s is playing`);
      break;
  }
  showState();
  if (message.kind !== "lens" && message.kind !== "spoken") refresh();
}

function lensOf(arm) {
  return lenses[arm] ?? lenses.left;
}

function lensChanged(glasses, { arm, lens, version }) {
  if (!glasses.arms[arm]) return;
  const before = (glasses.arms[arm].lens?.text ?? "").split("\n");
  glasses.arms[arm].lens = lens;
  if (glasses !== device()) return;
  lensOf(arm).load(version);
  const lines = (lens.text ?? "").split("\n").filter((line) => line.trim() && !before.includes(line));
  const words = lines.join(" / ") || (lens.text?.trim() ? "fewer lines" : lens.kind === "blank" ? "dark" : lens.kind);
  // Both arms get the same, one after the other: one line tells it.
  const arms = changes[0]?.key === `lens ${words}` ? "both lenses" : `${arm} lens`;
  changed(`lens ${words}`, `${arms}: ${words}`, false);
}

/** Links and inputs are announced without details: read the state again, at most ten times a second. */
function refresh() {
  if (refresh.timer) return;
  refresh.timer = setTimeout(async () => {
    refresh.timer = null;
    try {
      const reply = await fetch("/api/sim/state", { cache: "no-store" });
      const whole = reply.ok ? await reply.json() : null;
      // An event may have overtaken the answer: what is older than it would stay on the page.
      if (whole && whole.version < state.sim.version) refresh();
      else if (whole) adopt(whole);
    } catch {
      // The event stream notices that the server is gone, and says so.
    }
  }, 100);
}

function adopt(whole) {
  const before = device();
  state.sim = whole;
  const now = device();
  for (const [name, arm] of Object.entries(now?.arms ?? {})) {
    const old = before?.arms?.[name];
    if (old && old.state !== arm.state) changed(`${name}-link`, `${name} arm ${arm.state}`);
    lensOf(name).load(arm.lens?.version ?? 0);
  }
  showState();
}

// --- what changed -----------------------------------------------------------------------------------------------------

const changes = [];

/** One more line; what repeats within a second under the same key is one line, and counted if `count`. */
function changed(key, words, count = true) {
  const now = Date.now();
  const same = key && changes[0]?.key === key && now - changes[0].at < FRESH_MS;
  if (same) Object.assign(changes[0], { words, at: now, count: changes[0].count + (count ? 1 : 0) });
  else changes.unshift({ key, words, at: now, count: 1 });
  changes.length = Math.min(changes.length, CHANGES_MAX);
  showChanges();
}

function showChanges() {
  const now = Date.now();
  byId("changes").replaceChildren(
    ...changes.map(({ words, at, count }) => {
      const item = document.createElement("li");
      item.classList.toggle("fresh", now - at < FRESH_MS);
      const time = document.createElement("time");
      time.textContent = new Date(at).toLocaleTimeString([], { hour12: false }) + "." + String(at % 1000).padStart(3, "0");
      const text = document.createElement("span");
      text.textContent = count > 1 ? `${words} (×${count})` : words;
      text.title = words;
      item.append(time, text);
      return item;
    }),
  );
  clearTimeout(showChanges.timer);
  if (changes.some(({ at }) => now - at < FRESH_MS)) showChanges.timer = setTimeout(showChanges, 250);
}

// --- the last exchange --------------------------------------------------------------------------------------------------

/** hops: [{who, what, ms}], ms being the time since the hop before; null where nobody measured it. */
function showExchange({ hops, total_ms: total }) {
  byId("exchange-hint").hidden = true;
  byId("hop-note").textContent = hops.filter((hop) => hop.note && hop.ms != null).map((hop) => `${hop.who}: ${hop.note}.`).join(" ");
  byId("exchange-total").value = total == null ? "" : `${format(total)} in all`;
  byId("hops").replaceChildren(
    ...hops.map(({ who, what, ms, note }, index) => {
      const item = document.createElement("li");
      item.classList.toggle("unknown", ms == null && index > 0);
      for (const [name, text] of [["ms", index === 0 ? "" : ms == null ? "–" : format(ms)], ["who", who], ["what", what ?? ""]]) {
        const part = document.createElement("span");
        part.className = name;
        part.textContent = text;
        if (text) part.title = name === "what" && note ? `${text}: ${note}` : text;
        item.append(part);
      }
      return item;
    }),
  );
}

function format(ms) {
  if (ms < 1) return "< 1 ms"; // event loops count in milliseconds
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

// --- events -------------------------------------------------------------------------------------------------------------

function listen() {
  const source = new EventSource("/api/sim/events");
  source.addEventListener("open", () => link("page", "on", "live"));
  source.addEventListener("error", () => {
    link("page", "bad", "connection lost, trying again");
    // A closed source does not come back by itself (a proxy that answers with an error closes it).
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  });
  source.addEventListener("state", (event) => {
    link("page", "on", "live");
    for (const lens of Object.values(lenses)) lens.version = lens.wanted = -1; // the simulator may be a new one
    adopt(JSON.parse(event.data));
  });
  source.addEventListener("change", (event) => took(JSON.parse(event.data)));
  if (source.readyState === EventSource.CLOSED) source.close();
}

function listenToCloud() {
  const source = new EventSource("/api/dev/events");
  source.addEventListener("error", () => {
    link("cloud", "bad", "cloud unreachable");
    if (source.readyState === EventSource.CLOSED) setTimeout(listenToCloud, 2000);
  });
  source.addEventListener("session", (event) => {
    const session = JSON.parse(event.data);
    const apps = session.apps.length ? session.apps.join(", ") : "no app";
    link("cloud", session.connected ? "on" : "wait", session.connected ? `cloud · ${apps}` : "cloud waits for the glasses");
  });
  source.addEventListener("exchange", (event) => showExchange(JSON.parse(event.data)));
}

// --- inputs -------------------------------------------------------------------------------------------------------------

function toast(words) {
  byId("toast").textContent = words;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (byId("toast").textContent = ""), 6000);
}

async function post(path, body, headers = {}) {
  try {
    const reply = await fetch(path, { method: "POST", body, headers });
    if (reply.ok) {
      toast("");
      return true;
    }
    const problem = await reply.json().catch(() => ({}));
    toast([problem.error ?? `the simulator answered ${reply.status}`, problem.fix].filter(Boolean).join(" – "));
  } catch {
    toast("the server does not answer: is glassbridge dev still running?");
  }
  return false;
}

const WORDS = {
  tap: "tap", double_tap: "double tap", long_press: "long press", look_up: "look up", look_down: "look down",
  press: "button", wear: "wear", battery: "battery", drop: "drop", lag: "lag", say: "say",
};

async function input(action, given = {}) {
  const { side, ...rest } = given;
  const extra = side && !isOne(device()) ? given : rest;
  const sent = await post("/api/sim/input", JSON.stringify({ action, ...extra }), { "Content-Type": "application/json" });
  if (sent && action !== "say") changed("", `${WORDS[action]}${extra.side ? " " + extra.side : ""}`);
  const button = document.querySelector(`button[data-action="${action}"]${side ? `[data-side="${side}"]` : ""}`);
  if (sent && button) {
    button.classList.add("sent");
    setTimeout(() => button.classList.remove("sent"), 200);
  }
  return sent;
}

for (const button of document.querySelectorAll("button[data-action]")) {
  button.addEventListener("click", () => {
    const { action, side } = button.dataset;
    input(action, { ...(side && { side }), ...(action === "drop" && { for: 5 }) });
  });
}

byId("wear").addEventListener("click", () => input("wear", { value: byId("wear").getAttribute("aria-pressed") !== "true" }));

byId("battery").addEventListener("input", (event) => (byId("battery-value").value = `${event.target.value} %`));
byId("battery").addEventListener("change", (event) => input("battery", { value: Number(event.target.value) }));
byId("lag").addEventListener("input", (event) => (byId("lag-value").value = `${event.target.value} ms`));
byId("lag").addEventListener("change", (event) => input("lag", { ms: Number(event.target.value) }));

byId("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = byId("words").value.trim();
  if (words && (await input("say", { text: words }))) byId("words").value = "";
});

byId("wav").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  const form = new FormData();
  form.append("wav", file);
  await post("/api/sim/input", form);
  event.target.value = ""; // so that the same file can be played again
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey) return;
  if (/^(input|select|textarea)$/i.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const touch = event.shiftKey ? "double_tap" : event.altKey ? "long_press" : "tap";
  const actions = {
    ArrowLeft: () => input(touch, { side: "left" }),
    ArrowRight: () => input(touch, { side: "right" }),
    ArrowUp: () => input("look_up"),
    ArrowDown: () => input("look_down"),
    w: () => byId("wear").click(),
    b: () => byId("press").hidden || byId("press").click(),
    m: () => byId("mic").click(),
    "/": () => byId("words").focus(),
  };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
});

// --- the computer's microphone --------------------------------------------------------------------------------------------

const CHUNK_MS = 100; // what one request carries

async function startMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error("this browser gives no microphone to pages outside localhost");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
  const context = new AudioContext({ sampleRate: 16000 });
  await context.audioWorklet.addModule("/mic-worklet.js");
  const node = new AudioWorkletNode(context, "pcm", { numberOfOutputs: 0, processorOptions: { samples: 16 * CHUNK_MS } });
  context.createMediaStreamSource(stream).connect(node);
  const microphone = { stream, context, busy: false };
  node.port.onmessage = async ({ data }) => {
    showLevel(data.peak);
    if (microphone.busy) return; // live sound: what cannot leave now is dropped, not queued
    microphone.busy = true;
    if (!(await post("/api/sim/audio", data.pcm, { "Content-Type": "application/octet-stream" }))) stopMicrophone();
    microphone.busy = false;
  };
  return microphone;
}

function stopMicrophone() {
  for (const track of state.mic?.stream.getTracks() ?? []) track.stop();
  state.mic?.context.close();
  state.mic = null;
  showLevel(0);
  byId("mic").setAttribute("aria-pressed", "false");
}

function showLevel(peak) {
  byId("level").hidden = !state.mic;
  byId("level").firstElementChild.style.width = `${Math.min(100, Math.round(peak * 100))}%`;
}

byId("mic").addEventListener("click", async () => {
  if (state.mic) return stopMicrophone();
  try {
    state.mic = await startMicrophone();
    byId("mic").setAttribute("aria-pressed", "true");
  } catch (error) {
    toast(`no microphone: ${error.message}`);
  }
});

listen();
listenToCloud();
