// The peer that ratios are taken against: node and the `ws` package, tuned.
//
// Rules: no compression, no per-message allocation beyond what the work needs, an event is wrapped and encoded once per
// event and the same buffer goes to every receiver. A display is looked at as far as its receiver can tell: a good layout
// of the app that it names, no faster than its view takes updates, numbered, dated and encoded. With --bare as the second
// argument the bytes of a display are passed on as they came. No checks of tokens, keys or permissions.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const sessions = new Map();
const bare = process.argv[3] === "--bare";
const TEXTS = { text_wall: ["text"], double_text_wall: ["topText", "bottomText"], reference_card: ["title", "text"], dashboard_card: ["leftText", "rightText"] };
const INTERVAL_MS = 300;
let displays = 0;

function sessionOf(user) {
  let session = sessions.get(user);
  if (!session) sessions.set(user, (session = { user, glasses: null, events: new Set(), audio: new Set(), views: new Map() }));
  return session;
}

const server = createServer((request, response) => response.end("ok"));
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, skipUTF8Validation: true, clientTracking: false });
const binary = { binary: true, compress: false };
const text = { binary: false, compress: false };

server.on("upgrade", (request, socket, head) => {
  socket.setNoDelay(true);
  sockets.handleUpgrade(request, socket, head, (ws) => {
    const at = request.url.indexOf("&u=");
    if (at >= 0) glasses(ws, sessionOf(request.url.slice(at + 3)));
    else app(ws);
  });
});

function glasses(ws, session) {
  session.glasses = ws;
  ws.on("message", (data, isBinary) => {
    if (isBinary) {
      for (const receiver of session.audio) receiver.send(data, binary);
      return;
    }
    const event = JSON.parse(data);
    if (event.type === "ping") {
      ws.send('{"type":"pong"}', text);
      return;
    }
    const frame = Buffer.from(
      JSON.stringify({ type: "data_stream", sessionId: session.user, streamType: event.type, timestamp: new Date().toISOString(), data: event }),
    );
    for (const receiver of session.events) receiver.send(frame, text);
  });
  ws.on("close", () => {
    if (session.glasses === ws) session.glasses = null;
  });
  ws.send('{"type":"connection_ack"}', text);
}

function isGood(message, owner) {
  const members = TEXTS[message.layout?.layoutType];
  if (members === undefined || message.packageName !== owner) return false;
  if (message.view !== "main" && message.view !== "dashboard") return false;
  if (message.durationMs !== undefined && !(message.durationMs >= 0)) return false;
  for (const member of members) if (typeof message.layout[member] !== "string" || message.layout[member].length > 10000) return false;
  return true;
}

// The display that goes out now, or null; the last one of each view is kept for glasses that come back.
function display(session, message, owner) {
  if (!isGood(message, owner)) return null;
  const now = Date.now();
  const shown = session.views.get(message.view);
  if (shown !== undefined && !message.forceDisplay && now - shown.at < INTERVAL_MS) return null;
  const event = { type: "display_event", timestamp: new Date(now).toISOString(), packageName: owner, view: message.view, layout: message.layout };
  if (message.durationMs !== undefined) event.durationMs = message.durationMs;
  event.displayId = String(++displays);
  const text = JSON.stringify(event);
  session.views.set(message.view, { at: now, owner, text });
  return text;
}

function app(ws) {
  let session = null;
  let owner = "";
  ws.on("message", (data) => {
    const message = JSON.parse(data);
    switch (message.type) {
      case "display_event":
        if (bare) {
          session?.glasses?.send(data, text);
        } else if (session) {
          const out = display(session, message, owner);
          if (out !== null) session.glasses?.send(out, text);
        }
        break;
      case "tpa_connection_init":
        owner = message.packageName;
        session = sessionOf(message.sessionId.slice(0, -(owner.length + 1)));
        ws.send('{"type":"tpa_connection_ack","settings":[]}', text);
        break;
      case "subscription_update":
        session.events.delete(ws);
        session.audio.delete(ws);
        if (message.subscriptions.includes("button_press")) session.events.add(ws);
        if (message.subscriptions.includes("audio_chunk")) session.audio.add(ws);
    }
  });
  ws.on("close", () => {
    session?.events.delete(ws);
    session?.audio.delete(ws);
  });
}

server.listen({ port: Number(process.argv[2] ?? 0), host: "127.0.0.1", backlog: 4096 }, () =>
  console.log(JSON.stringify({ event: "ready", port: server.address().port })),
);
