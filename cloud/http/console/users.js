// Users and their tokens: add, mint, revoke, remove.

import { chip, day, h, once, replace, server, sure, tell } from "./dom.js";
import { ask, path } from "./live.js";

const LIVES = [["", "as configured"], ["86400", "1 day"], ["2592000", "30 days"], ["31536000", "1 year"]];

export class Users {
  constructor(view) {
    this.fresh = h("div");
    this.users = h("div.cards");
    const name = h("input", { type: "email", name: "user", required: true, placeholder: "anna@home.example", "aria-label": "E-mail address of the user" });
    const form = h("form.row", { onsubmit: (event) => { event.preventDefault(); this.act(() => ask("POST", path("users"), { user: name.value }), `${name.value} was added.`).then(() => (name.value = "")); } }, name, h("button.primary", { type: "submit" }, "Add user"));
    replace(view, h("div.head", {}, h("h2", {}, "Users"), h("span.grow"), form), this.fresh, this.users);
    this.load();
  }

  async act(what, words) {
    try {
      const answer = await what();
      tell(words);
      await this.load();
      return answer;
    } catch (error) {
      tell(error.message, true);
      return null;
    }
  }

  async load() {
    try {
      const [{ users }, { tokens }] = await Promise.all([ask("GET", path("users")), ask("GET", path("tokens"))]);
      const mine = Map.groupBy ? Map.groupBy(tokens, (one) => one.user_id) : tokens.reduce((map, one) => map.set(one.user_id, [...(map.get(one.user_id) ?? []), one]), new Map());
      replace(this.users, users.length ? users.map((user) => this.card(user, mine.get(user.user_id) ?? []))
        : h("div.empty", {}, h("b", {}, "There is no user yet."), h("p", {}, "Add one, mint a token, and give it to the wearer's edge or phone.")));
    } catch (error) { tell(error.message, true); }
  }

  card(user, tokens) {
    const label = h("input", { type: "text", placeholder: "what for (kitchen Pi)", "aria-label": "Label of the new token", maxlength: "200" });
    const life = h("select", { "aria-label": "Lifetime of the new token" }, LIVES.map(([value, words]) => h("option", { value }, words)));
    const mint = async (event) => {
      event.preventDefault();
      const body = { user: user.user_id, label: label.value, ...(life.value ? { ttl: Number(life.value) } : {}) };
      const answer = await this.act(() => ask("POST", path("tokens"), body), "A token was minted.");
      if (answer) replace(this.fresh, once(`Token of ${user.user_id}`, answer.token, "The edge or the phone shows it when it connects. It is not stored and cannot be shown again."));
    };
    const now = server.now();
    const state = (one) => (one.revoked_at ? ["off", "revoked"] : one.expires_at && one.expires_at < now ? ["off", "expired"] : ["connected", "valid"]);
    const order = [...tokens].sort((a, b) => (state(a)[0] === state(b)[0] ? b.created_at - a.created_at : state(a)[0] === "connected" ? -1 : 1));
    return h("article.card", { data: { user: user.user_id } },
      h("div.card-head", {}, h("a", { href: `#/session/${encodeURIComponent(user.user_id)}` }, h("b", {}, user.user_id)), user.display_name ? h("span.hint", {}, user.display_name) : null, h("span.hint", {}, `since ${day(user.created_at)}`), h("span.grow"),
        sure("Remove", "User and all his data?", () => this.act(() => ask("DELETE", path("users", user.user_id)), `${user.user_id} was removed.`))),
      order.length ? h("table", {}, h("thead", {}, h("tr", {}, ["Token", "State", "Made", "Expires", ""].map((word) => h("th", { scope: "col" }, word)))),
        h("tbody", {}, order.map((one) => h("tr", {}, h("td", {}, one.label || h("span.hint", {}, "no label"), " ", h("code", {}, one.token_id.slice(0, 8))), h("td", {}, chip(...state(one))), h("td.num", {}, day(one.created_at)), h("td.num", {}, one.expires_at ? day(one.expires_at) : "never"),
          h("td", {}, state(one)[0] === "connected" ? sure("Revoke", "Really revoke?", () => this.act(() => ask("DELETE", path("tokens", one.token_id)), "The token was revoked; its connection is closed.")) : null))))) : h("p.hint", {}, "no tokens"),
      h("form.row.mint", { onsubmit: mint }, label, life, h("button", { type: "submit" }, "Mint a token")));
  }
}
