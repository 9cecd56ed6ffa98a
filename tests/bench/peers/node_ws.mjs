// The peer that ratios are taken against: node and the `ws` package, tuned, doing the same work as the C peer.
//
// Rules: no compression, no per-message allocation beyond what the work needs, an event is wrapped and encoded once per
// event and the same buffer goes to every receiver. No checks of tokens, keys or permissions.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const sessions = new Map();

function sessionOf(user) {
  let session = sessions.get(user);
  if (!session) sessions.set(user, (session = { user, glasses: null, events: new Set(), audio: new Set() }));
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

function app(ws) {
  let session = null;
  ws.on("message", (data) => {
    const message = JSON.parse(data);
    switch (message.type) {
      case "display_event":
        session?.glasses?.send(data, text);
        break;
      case "tpa_connection_init":
        session = sessionOf(message.sessionId.slice(0, -(message.packageName.length + 1)));
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
