// The console: who may see it, which view is shown, and the frame around the views.

import { App, Apps } from "./apps.js";
import { byId, h, replace } from "./dom.js";
import { Health } from "./health.js";
import { live, token } from "./live.js";
import { SessionPage, Sessions } from "./sessions.js";
import { Trace } from "./trace.js";
import { Users } from "./users.js";

const view = byId("view");
let current = null;
let cloud = null;

const ROUTES = [
  [/^\/$/, () => new Sessions(view, cloud), "/"],
  [/^\/session\/([^/]+)$/, (user) => new SessionPage(view, user, cloud), "/"],
  [/^\/apps$/, () => new Apps(view), "/apps"],
  [/^\/apps\/([^/]+)$/, (name) => new App(view, name), "/apps"],
  [/^\/trace$/, (_, query) => new Trace(view, query, cloud), "/trace"],
  [/^\/users$/, () => new Users(view), "/users"],
  [/^\/health$/, () => new Health(view, cloud), "/health"],
];

function leave() {
  current?.close?.();
  current = null;
  live.look(() => ({ view: "summary" }));
}

function show() {
  leave();
  if (!cloud) return;
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  for (const [pattern, make, tab] of ROUTES) {
    const found = pattern.exec(path);
    if (!found) continue;
    for (const link of byId("tabs").children) {
      if (link.getAttribute("href") === `#${tab}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    replace(view);
    scrollTo(0, 0);
    current = make(found[1] ? decodeURIComponent(found[1]) : null, new URLSearchParams(query ?? ""));
    document.title = `${view.querySelector("h2")?.textContent ?? "Console"} · Glassbridge`;
    return;
  }
  replace(view, h("p.empty", {}, "There is no such page. ", h("a", { href: "#/" }, "Back to the sessions")));
}

function login(words = "") {
  leave();
  cloud = null;
  byId("tabs").hidden = byId("leave").hidden = true;
  for (const id of ["count-sessions", "count-away", "count-failing"]) byId(id).hidden = true;
  live.end();
  const field = h("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false" });
  const fault = h("p.fault", { role: "alert", id: "fault" }, words);
  const form = h("form.login", {
    onsubmit: (event) => {
      event.preventDefault();
      token.set(field.value.trim());
      fault.textContent = "";
      live.begin(enter, (code, words) => {
        live.end();
        token.clear();
        fault.textContent = code === "INVALID_TOKEN" ? "This is not the admin token of this cloud."
          : code === "RATE_LIMITED" ? "Too many wrong tokens from this address. Wait a minute." : words;
        field.select();
      });
    },
  },
  h("h2", {}, "Sign in"),
  h("label", { for: "token" }, "Admin token"),
  h("div.row", {}, field, h("button.primary", { type: "submit" }, "Sign in")),
  fault,
  h("p.hint", {}, h("code", {}, "glassbridge cloud init"), " showed it once. It stays in this browser tab and is gone when the tab closes."));
  replace(view, form);
  field.focus();
}

/** The cloud let us in: for the first time, or again after the socket was away. */
function enter(welcome) {
  const isFirst = cloud === null;
  cloud = Object.assign(cloud ?? {}, welcome);
  if (!isFirst) return;
  live.refused = () => { token.clear(); login("The admin token is no longer accepted."); };
  byId("tabs").hidden = false;
  byId("leave").hidden = !token.get();
  show();
}

byId("leave").addEventListener("click", () => { token.clear(); login(); });
addEventListener("hashchange", show);
// "/" looks for something on the page that has a search; a single key, so never while typing.
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
  const search = view.querySelector("input[type=search]");
  if (search) { event.preventDefault(); search.focus(); }
});

// Without a token too: in `dev`, on this machine, none is asked for.
live.begin(enter, (code, words) => { const shown = token.get(); token.clear(); login(shown || code === "RATE_LIMITED" ? words : ""); });
