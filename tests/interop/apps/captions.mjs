// A first app as a developer writes it after the SDK's quick start: a greeting, then what is said.
// `tests/interop/test_edit_and_save.py` changes the greeting while it runs.

if (process.env.APP_SDK === "@mentra/sdk-3") globalThis.Bun ??= {}; // SDK 3 is written for Bun
const { AppServer, ViewType } = await import(process.env.APP_SDK);

const GREETING = "Hello";

class Captions extends AppServer {
  async onSession(session, sessionId, userId) {
    session.layouts.showTextWall(GREETING);
    const stop = session.events.onTranscription((words) => {
      session.layouts.showTextWall(words.text, { view: ViewType.MAIN, durationMs: words.isFinal ? 3000 : undefined });
    });
    this.addCleanupHandler?.(stop);
  }
}

const app = new Captions({ packageName: "com.example.captions", apiKey: "any-key-will-do", port: Number(process.env.PORT) });
await app.start();
if (process.env.APP_SDK === "@mentra/sdk-3") {
  // What Bun does with an exported app, and when it reloads one.
  const { serve } = await import("@hono/node-server");
  serve({ fetch: app.fetch, port: Number(process.env.PORT), hostname: "127.0.0.1" });
  process.on("SIGTERM", () => process.exit(0));
}
