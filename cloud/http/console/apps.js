// Apps: the list, one app's record, its key, its last webhooks with Replay, and its settings for a user.

import { chip, clock, h, once, replace, sure, tell } from "./dom.js";
import { ask, live, path } from "./live.js";

const PERMISSIONS = ["MICROPHONE", "LOCATION", "BACKGROUND_LOCATION", "CALENDAR", "CAMERA", "NOTIFICATIONS", "READ_NOTIFICATIONS", "POST_NOTIFICATIONS", "ALL"];
const KINDS = [["background", "background: runs beside others"], ["standard", "standard: one in the foreground"], ["system_dashboard", "dashboard: draws the dashboard view"]];

function labelled(words, field, hint) {
  const label = h("label.field", {}, h("span", {}, words), field);
  if (hint) label.append(h("small.hint", {}, hint));
  return label;
}

/** The form of an app's record. `save(values)` rejects with the cloud's words. */
function recordForm(app, save) {
  const fixed = Boolean(app);
  const field = (name, attributes = {}) => h("input", { name, type: "text", value: app?.[name] ?? "", ...attributes });
  const kind = h("select", { name: "appType" }, KINDS.map(([value, words]) => h("option", { value, ...(value === (app?.appType ?? "background") ? { selected: true } : {}) }, words)));
  const granted = new Set((app?.permissions ?? []).map((one) => one.type));
  const boxes = PERMISSIONS.map((name) => h("label.check", {}, h("input", { type: "checkbox", name: "permission", value: name, checked: granted.has(name) }), name.toLowerCase().replaceAll("_", " ")));
  const schema = h("textarea", { name: "settings", rows: "6", spellcheck: "false" });
  schema.value = JSON.stringify(app?.settings ?? [], null, 2);
  const everybody = h("input", { type: "checkbox", name: "preinstalled", checked: app ? app.preinstalled : true });
  const fault = h("p.fault", { role: "alert" });
  return h("form.record", {
    onsubmit: async (event) => {
      event.preventDefault();
      const data = new FormData(event.target);
      fault.textContent = "";
      let settings;
      try {
        settings = JSON.parse(data.get("settings") || "[]");
      } catch (error) {
        fault.textContent = `Settings schema: not JSON (${error.message}).`;
        return;
      }
      const old = new Map((app?.permissions ?? []).map((one) => [one.type, one]));
      try {
        await save({
          ...app, packageName: app?.packageName ?? data.get("packageName").trim(), name: data.get("name").trim(), publicUrl: data.get("publicUrl").trim(),
          appType: data.get("appType"), description: data.get("description"), preinstalled: everybody.checked, settings,
          permissions: data.getAll("permission").map((type) => old.get(type) ?? { type }),
        });
      } catch (error) {
        fault.textContent = error.message;
      }
    },
  },
  h("div.grid", {},
    labelled("Package", field("packageName", { required: true, placeholder: "com.example.captions", ...(fixed ? { readonly: true } : {}) })),
    labelled("Name", field("name", { placeholder: "Captions" })),
    labelled("Address of its server", field("publicUrl", { required: true, type: "url", placeholder: "http://10.0.0.5:3000" }), "The cloud posts to /webhook there."),
    labelled("Kind", kind),
    labelled("Description", field("description"))),
  h("fieldset", {}, h("legend", {}, "Permissions"), h("div.checks", {}, boxes)),
  h("label.check", {}, everybody, "installed for every user"),
  h("details", {}, h("summary", {}, "Settings schema (JSON)"), schema),
  fault,
  h("div.row", {}, h("button.primary", { type: "submit" }, fixed ? "Save" : "Register")));
}

export class Apps {
  constructor(view) {
    this.list = h("div.cards");
    this.fresh = h("div");
    this.form = h("section.panel", { hidden: true }, h("h3", {}, "Register an app"), recordForm(null, (values) => this.add(values)));
    this.button = h("button.primary", { type: "button", id: "new-app", onclick: () => { this.form.hidden = !this.form.hidden; if (!this.form.hidden) this.form.querySelector("input").focus(); } }, "Register an app");
    replace(view, h("div.head", {}, h("h2", {}, "Apps"), h("span.grow"), this.button), this.fresh, this.form, this.list);
    this.load();
  }

  async load() {
    try {
      const { apps } = await ask("GET", path("apps"));
      replace(this.list, apps.length ? apps.map((app) => h("a.card.link", { href: `#/apps/${encodeURIComponent(app.packageName)}` },
        h("div.card-head", {}, h("b", {}, app.name || app.packageName), h("span.hint", {}, app.packageName), h("span.grow"), h("span.hint", {}, app.appType)),
        h("p.why", {}, app.publicUrl),
        h("p.hint", {}, app.permissions.length ? app.permissions.map((one) => one.type.toLowerCase().replaceAll("_", " ")).join(", ") : "no permissions", app.preinstalled ? " · for everybody" : "")))
        : h("div.empty", {}, h("b", {}, "No app is registered."), h("p", {}, "Register the address of an app's server; in ", h("code", {}, "glassbridge dev"), " apps on this machine are found by themselves.")));
    } catch (error) {
      tell(error.message, true);
    }
  }

  async add(values) {
    const answer = await ask("POST", path("apps"), values);
    this.form.hidden = true;
    replace(this.fresh, answer.apiKey ? once(`API key of ${values.packageName}`, answer.apiKey, "The app shows this key when it connects. It is not stored and cannot be shown again.") : null,
      (answer.warnings ?? []).map((words) => h("p.warning", { role: "alert" }, words)));
    tell(`${values.packageName} is registered.`);
    await this.load();
  }
}

export class App {
  constructor(view, name) {
    this.name = name;
    this.fresh = h("div");
    this.record = h("section.panel", {}, h("h3", {}, "Record"));
    this.hooks = h("div");
    this.settings = h("div");
    this.user = h("select", { "aria-label": "User", onchange: () => this.loadSettings() });
    replace(view, h("div.head", {}, h("a.back", { href: "#/apps" }, "Apps"), h("h2", {}, name), h("span.grow"),
      sure("New key", "The old key ends. Sure?", () => this.rotate(), "plain"), sure("Remove", "Really remove it?", () => this.remove())),
    this.fresh,
    h("div.two", {},
      h("section.panel", {}, h("h3", {}, "Last webhooks"), this.hooks),
      h("section.panel", {}, h("h3", {}, "Settings of", this.user), this.settings)),
    this.record);
    this.kept = new Map();
    live.look(() => ({ view: "webhooks", package: name }), (piece) => this.took(piece));
    this.load();
    this.loadUsers();
  }

  async load() {
    try {
      const { app } = await ask("GET", path("apps", this.name));
      this.app = app;
      this.record.replaceChildren(this.record.firstChild, recordForm(app, async (values) => {
        const answer = await ask("POST", path("apps"), values);
        tell("Saved.");
        for (const words of answer.warnings ?? []) tell(words, true);
        await this.load();
        this.loadSettings();
      }));
    } catch (error) {
      replace(this.record, h("p.empty", {}, error.message));
    }
  }

  took(piece) {
    if (piece.reset) this.kept.clear();
    for (const hook of piece.hooks) this.kept.set(hook.id, hook);
    const hooks = piece.ids.map((id) => this.kept.get(id));
    this.kept = new Map(hooks.map((hook) => [hook.id, hook]));
    replace(this.hooks, hooks.length ? hooks.toReversed().map((hook, index) => h("details.hook", { ...(index ? {} : { open: true }) },
      h("summary", {}, chip(hook.ok ? "ok" : "error", hook.status ? String(hook.status) : hook.error ?? "failed"), h("b", {}, hook.request.type), h("span.num", {}, `${hook.ms} ms`), hook.replayed ? h("span.tag", {}, "replayed") : null, h("span.grow"), h("time.hint", {}, clock(hook.at))),
      h("div.pair", {}, h("div", {}, h("h4", {}, "Request"), h("pre", { tabindex: "0" }, JSON.stringify(hook.request, null, 2))),
        h("div", {}, h("h4", {}, "Reply"), h("pre", { tabindex: "0" }, hook.reply ? JSON.stringify(hook.reply, null, 2) : hook.status ? `${hook.status}, no JSON object` : `none: ${hook.error}`))),
      h("button", { type: "button", onclick: (event) => this.replay(hook.id, event.target) }, "Replay")))
      : h("p.hint", {}, "None since the cloud started. Start the app in a session; the request and the app's reply appear here."));
  }

  async replay(id, button) {
    button.disabled = true;
    button.textContent = "Sending …";
    try {
      const { webhook } = await ask("POST", path("apps", this.name, "webhooks", String(id), "replay"));
      if (webhook?.ok) tell(`The app answered ${webhook.status} in ${webhook.ms} ms.`);
      else tell(`The app ${webhook?.status ? `answered ${webhook.status}` : `did not answer (${webhook?.error})`}.`, true);
    } catch (error) {
      tell(error.message, true);
    }
    button.disabled = false;
    button.textContent = "Replay";
  }

  async rotate() {
    try {
      const { apiKey } = await ask("POST", path("apps", this.name, "rotate-key"));
      replace(this.fresh, once(`New API key of ${this.name}`, apiKey, "The old key is refused from now on; running sessions of the app were ended. It cannot be shown again."));
    } catch (error) { tell(error.message, true); }
  }

  async remove() {
    try {
      await ask("DELETE", path("apps", this.name));
      tell(`${this.name} was removed.`);
      location.hash = "#/apps";
    } catch (error) { tell(error.message, true); }
  }

  async loadUsers() {
    try {
      const { users } = await ask("GET", path("users"));
      replace(this.user, users.map((one) => h("option", { value: one.user_id }, one.display_name || one.user_id)));
      await this.loadSettings();
    } catch (error) { tell(error.message, true); }
  }

  async loadSettings() {
    if (!this.user.value) { replace(this.settings, h("p.hint", {}, "There is no user yet.")); return; }
    const where = path("apps", this.name, "settings", this.user.value);
    try {
      const { settings } = await ask("GET", where);
      replace(this.settings, settingsForm(settings, (values) => ask("PUT", where, { values })));
    } catch (error) { replace(this.settings, h("p.fault", {}, error.message)); }
  }
}

const textOf = (value) => (value === null || value === undefined ? "" : String(value));

/** One control per kind of the SDK's schema; `read()` gives the value to store. */
function control(entry) {
  const options = (entry.options ?? []).map((one) => (typeof one === "object" ? one : { label: String(one), value: one }));
  const value = entry.selected;
  switch (entry.type) {
    case "toggle": {
      const box = h("input", { type: "checkbox", checked: Boolean(value), role: "switch" });
      return { element: h("label.check", {}, box, entry.label ?? entry.key), read: () => box.checked, whole: true };
    }
    case "slider": {
      const shown = h("output", {}, textOf(value));
      const slider = h("input", { type: "range", min: entry.min ?? 0, max: entry.max ?? 100, step: entry.step ?? 1, oninput: () => (shown.textContent = slider.value) });
      slider.value = textOf(value);
      return { element: h("span.row", {}, slider, shown), read: () => Number(slider.value) };
    }
    case "select": case "select_with_search": {
      const select = h("select", {}, options.map((one, index) => h("option", { value: String(index), ...(one.value === value ? { selected: true } : {}) }, one.label ?? textOf(one.value))));
      return { element: select, read: () => options[Number(select.value)]?.value };
    }
    case "multiselect": {
      const held = new Set(Array.isArray(value) ? value : []);
      const boxes = options.map((one) => h("input", { type: "checkbox", checked: held.has(one.value) }));
      return { element: h("fieldset", {}, h("legend", {}, entry.label ?? entry.key), boxes.map((box, index) => h("label.check", {}, box, options[index].label ?? textOf(options[index].value)))), read: () => options.filter((_, index) => boxes[index].checked).map((one) => one.value), whole: true };
    }
    case "numeric_input": {
      const field = h("input", { type: "number", min: entry.min, max: entry.max, step: entry.step ?? "any", value: textOf(value) });
      return { element: field, read: () => (field.value === "" ? null : Number(field.value)) };
    }
    default: {
      const long = Number(entry.maxLines ?? 1) > 1 || textOf(value).includes("\n");
      const field = h(long ? "textarea" : "input", long ? { rows: "3" } : { type: "text" });
      field.value = textOf(value);
      return { element: field, read: () => field.value };
    }
  }
}

function settingsForm(entries, save) {
  const held = [];
  const rows = entries.map((entry) => {
    if (entry.type === "group") return h("h4", {}, entry.title ?? entry.label ?? "");
    if (entry.type === "titleValue" || entry.type === "title_value") return h("p", {}, h("b", {}, entry.label ?? ""), ` ${textOf(entry.value)}`);
    if (!entry.key) return null;
    const one = control(entry);
    held.push([entry.key, one, JSON.stringify(entry.selected ?? null)]);
    return one.whole ? one.element : labelled(entry.label ?? entry.key, one.element);
  });
  if (!held.length) return h("p.hint", {}, "This app has no settings. Its schema is part of its record below.");
  return h("form.settings", {
    onsubmit: async (event) => {
      event.preventDefault();
      const changed = held.filter(([, one, before]) => JSON.stringify(one.read() ?? null) !== before);
      try {
        await save(Object.fromEntries(changed.map(([key, one]) => [key, one.read()])));
        held.forEach((item) => (item[2] = JSON.stringify(item[1].read() ?? null)));
        tell("Saved; a running app was told.");
      } catch (error) { tell(error.message, true); }
    },
  }, rows, h("div.row", {}, h("button.primary", { type: "submit" }, "Save settings")));
}
