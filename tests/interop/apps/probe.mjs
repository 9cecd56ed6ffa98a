// An unmodified @mentra/sdk app server that a test drives from outside.
//
// Rules: the SDK is used as an app developer uses it (AppServer, onSession, onStop, onToolCall), nothing in it is
// patched. Orders and reports are JSON lines on one Unix socket (PROBE_CONTROL): an order is {id, session?, code} and
// runs `code` with session, app, sdk, emit in reach; a report is {event, session, data} or the order's {id, ok, value}.
// When the socket ends, so does the process: no app survives its test.

import net from "node:net";
import readline from "node:readline";

const generation = process.env.PROBE_SDK === "3" ? 3 : 2;
if (generation === 3) globalThis.Bun ??= {}; // SDK 3 is written for Bun; an empty global is all it needs here
const sdk = await import(generation === 3 ? "@mentra/sdk-3" : "@mentra/sdk");

const AsyncFunction = (async () => {}).constructor;
const plain = (value) => {
  const seen = JSON.stringify(value, (_, item) => {
    if (item instanceof ArrayBuffer) return { bytes: Buffer.from(item).toString("base64") };
    if (ArrayBuffer.isView(item)) return { bytes: Buffer.from(item.buffer, item.byteOffset, item.byteLength).toString("base64") };
    if (item?.type === "Buffer" && Array.isArray(item.data)) return { bytes: Buffer.from(item.data).toString("base64") };
    if (item instanceof Error) return { error: item.message };
    return typeof item === "bigint" ? String(item) : item;
  });
  return seen === undefined ? null : JSON.parse(seen);
};

const control = net.connect(process.env.PROBE_CONTROL);
const say = (report) => control.write(JSON.stringify(report) + "\n");
const sessions = new Map(); // the newest AppSession of each session id
const state = { hook: process.env.PROBE_HOOK || "", stopHook: "", tool: "return undefined" };

const run = (code, session, extra = {}) => {
  const emit = (event, data) => say({ event, session: session?.getSessionId?.() ?? null, at: Date.now(), data: plain(data) });
  const scope = { session, app, sdk, emit, sessions, state, ...extra };
  return new AsyncFunction(...Object.keys(scope), code)(...Object.values(scope));
};

class Probe extends sdk.AppServer {
  async onSession(session, sessionId, userId) {
    sessions.set(sessionId, session);
    const tell = (event, data) => say({ event, session: sessionId, at: Date.now(), data: plain(data) });
    session.events.onError((error) => tell("error", error?.message ?? String(error)));
    session.events.onDisconnected((info) => tell("disconnected", info));
    session.events.onConnected(() => tell("connected", null));
    tell("onSession", { userId, settings: session.getSettings(), capabilities: session.capabilities });
    if (state.hook) await run(state.hook, session, { userId });
    tell("onSession:done", null);
  }

  async onStop(sessionId, userId, reason) {
    say({ event: "onStop", session: sessionId, at: Date.now(), data: { userId, reason } });
    if (state.stopHook) await run(state.stopHook, sessions.get(sessionId));
    await super.onStop(sessionId, userId, reason);
  }

  async onToolCall(call) {
    const { activeSession, ...rest } = call;
    say({ event: "onToolCall", session: null, at: Date.now(), data: { ...plain(rest), live: Boolean(activeSession) } });
    return run(state.tool, activeSession, { call: rest });
  }
}

const app = new Probe({
  packageName: process.env.PROBE_PACKAGE,
  apiKey: process.env.PROBE_API_KEY,
  port: Number(process.env.PROBE_PORT),
  cookieSecret: "interop-cookie-secret",
});

// A page of the app's own, behind the SDK's webview authentication (SDK 2 has an Express app inside, SDK 3 is a Hono app).
if (generation === 3) app.get("/who", (c) => c.json({ user: c.get("authUserId") ?? null }));
else app.getExpressApp().get("/who", (request, reply) => void reply.json({ user: request.authUserId ?? null }));

readline.createInterface({ input: control }).on("line", async (text) => {
  const { id, session, code } = JSON.parse(text);
  try {
    say({ id, ok: true, value: plain(await run(code, session ? sessions.get(session) : undefined)) });
  } catch (error) {
    say({ id, ok: false, value: error?.message ?? String(error) });
  }
});
control.on("close", () => process.exit(0));

if (generation === 3) {
  const { serve } = await import("@hono/node-server");
  await app.start();
  await new Promise((ready) => serve({ fetch: app.fetch, port: Number(process.env.PROBE_PORT), hostname: "127.0.0.1" }, ready));
} else {
  await app.start();
}
say({ event: "ready", session: null, at: Date.now(), data: { sdk: process.env.PROBE_SDK, pid: process.pid } });
