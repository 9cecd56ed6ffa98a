// Talking to the cloud: requests with the token of this tab, and the one live socket.
// The token is in sessionStorage, not in a cookie: no other site can make this browser use it. On the socket it is the
// first message, never part of the address.

import { byId, clock, server, span, tell } from "./dom.js";

const KEY = "glassbridge-admin-token";
//: A socket that is silent for this long is dead; the cloud says something every 10 s.
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
  if (reply.status === 401) live.refused?.("INVALID_TOKEN");
  if (!reply.ok) throw new Refused(reply.status, value.error ?? value.message ?? `The cloud answered ${reply.status}.`);
  return value;
}

export const path = (...parts) => "/api/admin/" + parts.map(encodeURIComponent).join("/");

function count(id, number, words, state) {
  const item = byId(id);
  item.hidden = number === 0 && id !== "count-sessions";
  item.dataset.state = number ? state : "off";
  item.lastElementChild.textContent = `${number.toLocaleString("en")} ${words}`;
}

function say(state, words) {
  const item = byId("live");
  item.dataset.state = state;
  if (item.lastElementChild.textContent !== words) item.lastElementChild.textContent = words;
}

/** The one socket. It stays open, comes back by itself, and while it is away the page says so. */
class Live {
  constructor() {
    this.wait = RETRY_MIN_MS;
    this.asked = 0;
    this.watched = null;
    setInterval(() => this.admit(), 1000);
    byId("try-now").addEventListener("click", () => this.dial());
    addEventListener("online", () => { if (this.due) this.dial(); });
  }

  /** `welcomed(cloud)` after each time that the cloud let us in; `refused(code, words)` when it does not: then it is over. */
  begin(welcomed, refused) {
    this.end();
    Object.assign(this, { welcomed, refused, proven: false, wait: RETRY_MIN_MS });
    this.dial();
  }

  end() {
    this.drop();
    this.due = this.lostAt = this.refused = null;
    byId("silent").hidden = true;
    byId("not-live").hidden = true;
    server.go();
    say("off", "signed out");
  }

  drop() {
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
    const socket = this.socket;
    this.socket = null;
    this.open = false;
    socket?.close();
  }

  dial() {
    this.drop();
    this.due = null;
    this.reason = "The cloud does not answer";
    if (!this.lostAt) say("wait", "connecting");
    this.admit();
    const socket = this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/admin/console/live`);
    const ours = (act) => (event) => { if (socket === this.socket) act(event); };
    this.watch();
    socket.onopen = ours(() => socket.send(JSON.stringify({ type: "hello", token: token.get() })));
    socket.onmessage = ours(({ data }) => { this.watch(); this.took(JSON.parse(data)); });
    socket.onclose = ours(() => this.lost());
  }

  watch() {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.lost(), SILENT_MS);
  }

  lost() {
    this.drop();
    server.halt();
    this.lostAt ??= Date.now();
    const delay = this.wait * (0.75 + Math.random() / 2);
    this.wait = Math.min(this.wait * 2, RETRY_MAX_MS);
    this.due = Date.now() + delay;
    this.timer = setTimeout(() => this.dial(), delay);
    this.admit();
  }

  /** A page that is not live says so, and since when: nothing on it moves meanwhile. */
  admit() {
    const box = byId("not-live");
    if (!this.lostAt) { box.hidden = true; return; }
    const left = this.due ? Math.ceil((this.due - Date.now()) / 1000) : 0;
    const old = this.proven ? ` What you see is from ${clock(this.lostAt / 1000)}.` : "";
    const next = left > 0 ? `Trying again in ${span(left)}.` : "Trying again …";
    box.hidden = false;
    const why = byId("not-live-why"), words = `${this.reason}.${old}`;
    if (why.textContent !== words) why.textContent = words;  // said aloud once, not every second
    byId("not-live-next").textContent = next;
    say("bad", "not live");
  }

  took(piece) {
    if (piece.look !== undefined) {
      if (piece.look === this.watched?.number) this.watched.took(piece);
    } else if (piece.type === "summary") this.summary(piece);
    else if (piece.type === "welcome") this.welcome(piece);
    else if (piece.type === "error") this.fault(piece);
  }

  welcome(cloud) {
    this.open = this.proven = true;
    this.wait = RETRY_MIN_MS;
    this.lostAt = null;
    this.reason = "The connection to the cloud broke";
    server.ahead = cloud.now - Date.now() / 1000;
    server.go();
    this.admit();
    say("on", "live");
    this.welcomed(cloud);
    this.ask();
  }

  fault({ code, message }) {
    if (this.open) tell(message, true);
    else if (code === "INVALID_TOKEN" || (code === "RATE_LIMITED" && !this.proven)) this.refused(code, message);
    else this.reason = `The cloud says: ${message}`;
  }

  summary({ connected, away, failing, draining, silent }) {
    const box = byId("silent");
    box.hidden = !silent.length;
    box.textContent = silent.length ? `No answer from ${silent.join(", ")}: what is shown is that of the other nodes.` : "";
    say(draining ? "wait" : "on", draining ? "draining" : "live");
    count("count-sessions", connected, "connected", "on");
    count("count-away", away, "away", "wait");
    count("count-failing", failing, "with a failing app", "bad");
  }

  ask() {
    if (this.open && this.watched) this.socket.send(JSON.stringify({ type: "look", look: this.watched.number, ...this.watched.question() }));
  }

  /** From now on the cloud tells about this and nothing else; each time it starts anew its first piece says `reset`. */
  look(question, took = () => {}) {
    this.watched = { number: ++this.asked, question, took };
    this.ask();
  }

  /** The question of the present look has another answer now. */
  again() { this.ask(); }
}

export const live = new Live();
