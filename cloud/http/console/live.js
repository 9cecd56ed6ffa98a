// Talking to the cloud: requests with the token of this tab, and the one live stream.
// The token is in sessionStorage, not in a cookie: no other site can make this browser use it.

import { byId, server } from "./dom.js";

const KEY = "glassbridge-admin-token";
//: A stream that is silent for this long is dead; the cloud says something every 10 s.
const SILENT_MS = 25_000;
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 15_000;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

let onLocked = () => {};
export function whenLocked(act) { onLocked = act; }

function headers(extra = {}) {
  const held = token.get();
  return held ? { Authorization: `Bearer ${held}`, ...extra } : extra;
}

/** One request; the answer's JSON, or a Refused with the cloud's own words. */
export async function ask(method, path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method,
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch {
    throw new Refused(0, "The cloud does not answer.");
  }
  const value = await reply.json().catch(() => ({}));
  if (reply.status === 401) onLocked();
  if (!reply.ok) throw new Refused(reply.status, value.error ?? value.message ?? `The cloud answered ${reply.status}.`);
  return value;
}

export const path = (...parts) => "/api/admin/" + parts.map(encodeURIComponent).join("/");

function say(state, words) {
  const item = byId("live");
  item.dataset.state = state;
  item.lastElementChild.textContent = words;
}

/** Opens a view's stream and keeps it open. `query` is asked before each attempt, so that it can resume. */
export class Stream {
  constructor(query, took) {
    this.query = query;
    this.took = took;
    this.wait = RETRY_MIN_MS;
    this.closed = false;
    this.run();
  }

  close() {
    this.closed = true;
    this.abort?.abort();
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
  }

  async run() {
    if (this.closed) return;
    this.abort = new AbortController();
    try {
      const reply = await fetch(`/api/admin/console/stream?${new URLSearchParams(this.query())}`, {
        headers: headers(), signal: this.abort.signal, cache: "no-store", credentials: "omit",
      });
      if (reply.status === 401) { onLocked(); return; }
      if (!reply.ok) throw new Refused(reply.status, "refused");
      say("on", "live");
      this.wait = RETRY_MIN_MS;
      await this.read(reply.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch {
      // Whatever ended the stream, the next attempt tells more; what is shown is marked as old meanwhile.
    }
    clearTimeout(this.watchdog);
    if (this.closed) return;
    say("wait", "reconnecting");
    this.timer = setTimeout(() => this.run(), this.wait * (0.75 + Math.random() / 2));
    this.wait = Math.min(this.wait * 2, RETRY_MAX_MS);
  }

  async read(reader) {
    let rest = "";
    for (;;) {
      clearTimeout(this.watchdog);
      this.watchdog = setTimeout(() => this.abort.abort(), SILENT_MS);
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) this.piece(JSON.parse(line));
    }
  }

  piece(piece) {
    if (this.closed) return;
    if (piece.type === "summary") summary(piece);
    else if (piece.type !== "quiet" && piece.type !== "draining") this.took(piece);
  }
}

function count(id, number, words, state) {
  const item = byId(id);
  item.hidden = number === 0 && id !== "count-sessions";
  item.dataset.state = number ? state : "off";
  item.lastElementChild.textContent = `${number.toLocaleString("en")} ${words}`;
}

function summary({ connected, away, failing }) {
  count("count-sessions", connected, "connected", "on");
  count("count-away", away, "away", "wait");
  count("count-failing", failing, "with a failing app", "bad");
}

/** The first question: is this tab let in, and what is this cloud? Throws Refused. */
export async function about() {
  const value = await ask("GET", path("console"));
  server.ahead = value.now - Date.now() / 1000;
  return value;
}
