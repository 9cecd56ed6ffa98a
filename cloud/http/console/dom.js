// Making elements, words for times, and messages to the reader.

/** h("div.name", {attributes and on…}, ...children): text is always text, never markup. */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "value" || key === "checked" || key === "disabled" || key === "hidden") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function replace(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

/** "12 s", "3 min", "2 h 05" of a number of seconds. */
export function span(seconds) {
  const value = Math.max(0, Math.round(seconds));
  if (value < 60) return `${value} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${String(Math.floor((value % 3600) / 60)).padStart(2, "0")}`;
  return `${Math.floor(value / 86400)} d`;
}

const two = (number) => String(number).padStart(2, "0");

/** Time of day of a Unix time in seconds. */
export function clock(at, milliseconds = false) {
  const date = new Date(at * 1000);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return milliseconds ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

export function day(at) {
  const date = new Date(at * 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** The server's clock, as far as we know it: pages are compared with its times. It stands still while the page is not live. */
export const server = {
  ahead: 0,
  halted: null,
  now: () => server.halted ?? Date.now() / 1000 + server.ahead,
  halt: () => { server.halted ??= server.now(); },
  go: () => { server.halted = null; },
};

let fading;

/** Tell the reader how something went. A fault stays longer. */
export function tell(words, bad = false) {
  const toast = byId("toast");
  toast.textContent = words;
  toast.dataset.state = bad ? "bad" : "on";
  clearTimeout(fading);
  fading = setTimeout(() => (toast.textContent = ""), bad ? 8000 : 3500);
}

/** Elements with data-since count up: "for 12 s"; with data-until they count down: "in 5 s". One timer for all. */
export function ages(root = document) {
  const now = server.now();
  for (const element of root.querySelectorAll("[data-since]")) {
    const words = span(now - Number(element.dataset.since));
    if (element.textContent !== words) element.textContent = words;
  }
  for (const element of root.querySelectorAll("[data-until]")) {
    const left = Number(element.dataset.until) - now;
    const words = left > 0.5 ? `in ${span(left)}` : "now";
    if (element.textContent !== words) element.textContent = words;
  }
}
setInterval(ages, 1000);

export const since = (at) => h("span.num", { data: { since: String(at) } }, span(server.now() - at));

const TONES = {
  connected: "on", on: "on", ok: "on",
  loading: "wait", connecting: "wait", grace: "wait", initializing: "wait", detached: "wait", lingering: "wait",
  disconnecting: "wait", stopping: "wait",
  // Of an arm, as our edge names them.
  ready: "on", scanning: "wait", discovering: "wait", backoff: "wait",
  error: "bad", given_up: "bad",
};

/** on, wait, bad or off: the colour of a state. */
export const tone = (state) => TONES[state] ?? "off";

const WORDS = { detached: "away", disconnected: "stopped", grace: "lost, waiting", lingering: "on" };

export const stateWords = (state) => WORDS[state] ?? state;

export const chip = (state, words = stateWords(state)) =>
  h("span.chip", { data: { state: tone(state) } }, h("span.dot"), words);

/** A secret that is shown this once. */
export function once(title, secret, note) {
  const field = h("input.secret", { type: "text", readonly: true, value: secret, "aria-label": title, onfocus: (event) => event.target.select() });
  const box = h("div.once", { role: "alert" },
    h("b", {}, title),
    h("p", {}, note),
    h("div.row", {}, field,
      h("button", { type: "button", onclick: () => navigator.clipboard?.writeText(secret).then(() => tell("Copied."), () => field.select()) }, "Copy"),
      h("button.quiet", { type: "button", onclick: () => box.remove() }, "I have it")));
  return box;
}

/** A button that asks back once before it does something that cannot be undone. */
export function sure(words, ask, act, className = "danger") {
  const button = h(`button.${className}`, { type: "button" }, words);
  let timer;
  button.addEventListener("click", async () => {
    if (button.dataset.asked) {
      clearTimeout(timer);
      delete button.dataset.asked;
      button.textContent = words;
      await act();
      return;
    }
    button.dataset.asked = "yes";
    button.textContent = ask;
    timer = setTimeout(() => { delete button.dataset.asked; button.textContent = words; }, 4000);
  });
  return button;
}
