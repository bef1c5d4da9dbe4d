// Everything shown comes from requests that anyone may have sent: text is only ever set as text
// (el), and an email's HTML is drawn in a frame that may neither run scripts nor load anything.

const KEEP = 60;
const RECENT_MS = 60_000;
const byId = (id) => document.getElementById(id);
const columns = new Map();
let vendors = [], lastSeq = 0, paused = false, held = [], solo = null, firstBatch = true;
let openedMail; // the newest, until a person has opened or closed one: then null
const COLUMN_PX = 252; // as narrow as a column gets, with the gap beside it

/** An element with a class, and children that are elements or text. */
function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function button(text, className, action) {
  const node = el("button", className, text);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

const pill = (text, kind) => el("span", `pill ${kind || ""}`, text);
const known = (value, allowed) => (allowed.includes(value) ? value : "");
const words = (name) => String(name).replaceAll("_", " ");

// --- times

const timeNodes = new Set();

function timeNode(at) {
  const node = el("time", "", ago(at));
  node.dateTime = at;
  node.title = new Date(at).toLocaleString();
  timeNodes.add(node);
  return node;
}

function ago(at) {
  const seconds = Math.max(0, (Date.now() - Date.parse(at)) / 1000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return new Date(at).toLocaleDateString();
}

// --- values

const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d/;

function pretty(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "object") return JSON.stringify(value);
  const text = String(value);
  if (/^-?\d+\.\d{3,}$/.test(text)) return String(Math.round(Number(text) * 1000) / 1000);
  if (ISO_TIME.test(text) && !Number.isNaN(Date.parse(text))) {
    const moment = new Date(text), time = { hour: "2-digit", minute: "2-digit" };
    return moment.toDateString() === new Date().toDateString() ? moment.toLocaleTimeString(undefined, time).replace(/\s/g, "\u00a0")
      : moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
  return text;
}

function fieldList(entries) {
  const list = el("dl", "fields");
  for (const [name, ...value] of entries) list.append(el("dt", "", words(name)), el("dd", "", ...value));
  return list;
}

/** old → new; a score also gets a meter, and says with its colour which way it went. */
function changeRow(name, [before, after], band) {
  const isScore = name.endsWith("_score") && after !== null && Number(after) >= 0 && Number(after) <= 1;
  const turned = isScore && before !== null
    ? (Number(after) > Number(before) ? "up" : "down") : "";
  const shown = el("ins", turned, pretty(after));
  const value = before === null ? [shown]
    : [el("del", "", pretty(before)), " ", el("span", "arrow", "→"), " ", shown];
  if (name.endsWith("_band")) {
    shown.className = `pill ${known(after, ["low", "medium", "high"])}`;
  }
  if (isScore) {
    const fill = el("i");
    fill.style.width = `${Math.round(Number(after) * 100)}%`;
    return [name, el("div", band, ...value, el("span", "meter", fill))];
  }
  return [name, ...value];
}

// --- Slack's mrkdwn, the common part of it

const EMOJI = {
  warning: "⚠️", rotating_light: "🚨", chart_with_downwards_trend: "📉", tada: "🎉", fire: "🔥",
  bulb: "💡", phone: "☎️", telephone_receiver: "📞", email: "✉️", bell: "🔔", wave: "👋", eyes: "👀",
  white_check_mark: "✅", x: "❌", heart: "❤️", moneybag: "💰", ticket: "🎫", calendar: "📅",
  red_circle: "🔴", large_yellow_circle: "🟡", large_green_circle: "🟢", large_orange_circle: "🟠",
  speech_balloon: "💬", memo: "📝", clipboard: "📋", rocket: "🚀", star: "⭐", hourglass: "⌛",
  vertical_traffic_light: "🚦", chart_with_upwards_trend: "📈", bust_in_silhouette: "👤",
};
const INLINE = /`([^`\n]+)`|<([^>|\n]+)(?:\|([^>\n]+))?>|(?<![\w*])\*(\S(?:[^*\n]*\S)?)\*(?!\w)|(?<!\w)_(\S(?:[^\n]*?\S)?)_(?!\w)|(?<!\w)~(\S(?:[^~\n]*\S)?)~(?!\w)|:([a-z0-9_+-]+):/g;
const unescape = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

function inline(text) {
  const nodes = [];
  let position = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, target, label, bold, italic, strike, emoji] = match;
    if (emoji && !EMOJI[emoji]) continue;
    nodes.push(unescape(text.slice(position, match.index)));
    position = match.index + whole.length;
    if (code) nodes.push(el("code", "", unescape(code)));
    else if (target) nodes.push(slackLink(unescape(target), label && unescape(label)));
    else if (bold) nodes.push(el("strong", "", inline(bold)));
    else if (italic) nodes.push(el("em", "", inline(italic)));
    else if (strike) nodes.push(el("s", "", inline(strike)));
    else nodes.push(EMOJI[emoji]);
  }
  nodes.push(unescape(text.slice(position)));
  return nodes;
}

function slackLink(target, label) {
  if (!/^(https?:|mailto:)/i.test(target)) return label || target;
  const link = el("a", "", label || target);
  link.href = target;
  link.rel = "noopener noreferrer";
  link.target = "_blank";
  return link;
}

function mrkdwn(text) {
  const out = [];
  for (const [index, piece] of String(text).split("```").entries()) {
    if (index % 2) { out.push(el("pre", "", unescape(piece.trim()))); continue; }
    let quote = [];
    const endQuote = () => { if (quote.length) out.push(el("blockquote", "", inline(quote.join("\n")))); quote = []; };
    for (const line of piece.split(/(?<=\n)/)) {
      const quoted = line.match(/^(?:&gt;|>) ?(.*)/);
      if (quoted) { quote.push(quoted[1]); continue; }
      endQuote();
      out.push(...inline(line.replace(/^(\s*)[-*•] /, "$1• ")));
    }
    endQuote();
  }
  return out;
}

function textObject(object) {
  if (!object || typeof object !== "object") return [];
  return object.type === "plain_text" ? inline(String(object.text ?? "").replaceAll("*", "∗")) : mrkdwn(object.text ?? "");
}

function block(item) {
  const list = (value) => (Array.isArray(value) ? value : []);
  if (item.type === "header") return el("div", "head", textObject(item.text));
  if (item.type === "divider") return el("hr");
  if (item.type === "section") {
    return el("div", "", el("div", "", textObject(item.text)),
      item.fields ? el("div", "two", list(item.fields).map((field) => el("div", "", textObject(field)))) : null);
  }
  if (item.type === "context") return el("div", "context", list(item.elements).map((part) => el("span", "", textObject(part), " ")));
  if (item.type === "actions") return el("div", "", list(item.elements).map((part) => el("span", "fake", textObject(part.text))));
  return el("pre", "", JSON.stringify(item, null, 1));
}

// --- one card per effect, by the vendor's view

function top(effect, who, avatar) {
  // A long address is better broken before its @.
  const name = el("span", "who", who.split(/(?=@)/).flatMap((part) => [el("wbr"), part]));
  name.title = who;
  return el("div", "top", avatar || null, name, timeNode(effect.at));
}

function initials(text) {
  const parts = text.split("@")[0].split(/[._+-]+/).filter(Boolean);
  return ((parts[0]?.[0] || "?") + (parts[1]?.[0] || "")).toUpperCase();
}

const again = (effect) => (effect.duplicate ? pill("arrived before", "again") : null);

const VIEWS = {
  contacts(effect, card) {
    const properties = effect.detail.properties || {};
    const now = (name) => effect.changes[name]?.[1] ?? properties[name];
    const band = known(now("churn_band"), ["low", "medium", "high"]);
    if (band) card.classList.add(band);
    const isCompany = effect.action.startsWith("company_");
    const verb = effect.action.replace(/^(contact|company)_/, "");
    card.append(
      top(effect, effect.key, el("span", `avatar ${isCompany ? "company" : ""}`, initials(effect.key))),
      el("div", "pills", pill(verb, verb === "created" ? "good" : "quiet"), isCompany ? pill("company", "quiet") : null, again(effect),
        band && !effect.changes.churn_band ? pill(`${band} churn risk`, band) : null),
      fieldList(Object.entries(effect.changes).filter(([name]) => name !== "email")
        .map(([name, change]) => changeRow(name, change, band))),
    );
  },

  audience(effect, card) {
    const verb = effect.action.replace("contact_", "");
    const [list] = Object.keys(effect.changes);
    const hash = el("code", "hash", `${effect.key.slice(0, 16)}…`);
    hash.title = effect.key;
    card.append(
      el("div", "top", pill(verb === "joined" ? "joins" : verb === "left" ? "leaves" : "no change",
        verb === "joined" ? "good" : verb === "left" ? "again" : "quiet"), hash, timeNode(effect.at)),
      el("div", "sub", `audience ${list || effect.summary.split(": ").at(-1)}`),
    );
  },

  sms(effect, card) {
    const { to, from, text, segments } = effect.detail;
    card.append(
      top(effect, to, el("span", "avatar", "✆")),
      el("div", "bubble", text),
      el("div", "pills", pill(`from ${from}`, "quiet"), segments > 1 ? pill(`${segments} segments`, "quiet") : null, again(effect)),
    );
  },

  cards(effect, card) {
    const blocks = effect.detail.card.body;
    card.append(
      top(effect, "Workflow", el("span", "avatar app")),
      el("div", "message", blocks.map((item) => {
        const text = String(item.text ?? "").replace(/\\([\\`*_[\]()#~>])/g, "$1");
        const line = el("div", item.weight === "Bolder" ? "head" : "", text);
        if (item.spacing === "Medium") line.classList.add("spaced");
        return line;
      })),
      el("div", "pills", again(effect)),
    );
  },

  channel(effect, card) {
    const { channel, text, blocks, username } = effect.detail;
    card.append(
      top(effect, username || "Signalbox", el("span", "avatar app")),
      el("div", "pills", pill(channel.startsWith("#") ? channel : `#${channel}`), again(effect)),
      el("div", "message", Array.isArray(blocks) && blocks.length ? blocks.map(block) : mrkdwn(text)),
    );
  },

  mail(effect, card) {
    const mail = effect.detail;
    const body = el("div", "preview");
    const open = button("Open", "link", () => { openedMail = null; showMail(effect, body, open, body.childElementCount === 0); });
    card.append(
      top(effect, mail.subject || "(no subject)"),
      el("div", "sub", `To ${mail.to.join(", ")}`),
      el("div", "sub", `From ${mail.from}`),
      el("div", "pills", mail.list_unsubscribe ? pill("can unsubscribe", "good") : pill("no unsubscribe header", "quiet"), again(effect)),
      body,
      el("div", "actions", open),
    );
    card.openMail = () => showMail(effect, body, open, true);
    card.closeMail = () => showMail(effect, body, open, false);
  },

  hooks(effect, card) {
    const { name, webhook_id: id, payload } = effect.detail;
    const isObject = (value) => value && typeof value === "object" && !Array.isArray(value);
    // Standard Webhooks wraps what it tells in `data`, beside `type` and `timestamp`.
    const told = isObject(payload) && isObject(payload.data) ? payload.data : payload;
    const entries = isObject(told)
      ? Object.entries(flat(told)).slice(0, 14).map(([field, value]) => [field, pretty(value)])
      : [["body", pretty(told)]];
    const idNode = el("div", "sub id", id);
    idNode.title = id;
    card.append(top(effect, name), idNode,
      el("div", "pills", pill("signature valid", "good"), again(effect)), fieldList(entries));
  },

  tickets(effect, card) {
    const ticket = effect.detail.ticket;
    card.append(
      top(effect, ticket.subject),
      el("div", "sub", `#${ticket.id} · ${ticket.requester_email}`),
      el("div", "pills", pill(ticket.status, known(ticket.status, ["pending", "solved"])),
        pill(ticket.priority, known(ticket.priority, ["high", "urgent"]) || "quiet"),
        effect.action === "ticket_created" ? null : pill("updated", "quiet"), again(effect)),
      Object.keys(effect.changes).length
        ? fieldList(Object.entries(effect.changes).map(([name, change]) => changeRow(name, change, "")))
        : el("div", "message", (ticket.description || "").slice(0, 400)),
    );
  },

  plain(effect, card) {
    card.append(top(effect, effect.key), el("div", "pills", pill(words(effect.action), "quiet"), again(effect)),
      el("div", "message", effect.summary),
      fieldList(Object.entries(effect.changes).map(([name, change]) => changeRow(name, change, ""))));
  },
};

/** One level of nesting shown as `outer name`; deeper values stay JSON. */
function flat(object) {
  const out = {};
  for (const [name, value] of Object.entries(object)) {
    if (value && typeof value === "object" && !Array.isArray(value)) {
      for (const [inner, deep] of Object.entries(value)) out[`${name} ${inner}`] = deep;
    } else out[name] = value;
  }
  return out;
}

function showMail(effect, body, opener, open) {
  body.replaceChildren();
  opener.textContent = open ? "Close" : "Open";
  if (!open) return;
  const mail = effect.detail;
  const place = el("div");
  const shows = {
    ...(mail.html ? { Preview: () => frame(mail.html) } : {}),
    Text: () => el("pre", "raw", mail.text || "(no text part)"),
    Headers: () => el("pre", "raw", [`From: ${mail.from}`, `To: ${mail.to.join(", ")}`, `Subject: ${mail.subject}`,
      `Message-ID: ${mail.message_id || "(none)"}`, `List-Unsubscribe: ${mail.list_unsubscribe || "(none)"}`,
      `List-Unsubscribe-Post: ${mail.list_unsubscribe_post || "(none)"}`].join("\n")),
  };
  const tabs = el("div", "tabs");
  for (const [name, show] of Object.entries(shows)) {
    const tab = button(name, "", () => {
      for (const other of tabs.children) other.classList.toggle("on", other === tab);
      place.replaceChildren(show());
    });
    tabs.append(tab);
  }
  body.append(tabs, place);
  tabs.firstElementChild.click();
}

function frame(html) {
  const node = document.createElement("iframe");
  node.setAttribute("sandbox", "");
  node.title = "Email preview";
  node.srcdoc = html;
  return node;
}

function makeCard(effect, view) {
  const card = el("article", "card");
  try {
    (VIEWS[view] || VIEWS.plain)(effect, card);
  } catch (error) {
    // A shape this page did not expect must not hide the effect itself.
    card.replaceChildren();
    VIEWS.plain(effect, card);
  }
  const raw = button("Raw request", "link", async () => {
    const shown = card.querySelector(":scope > .raw");
    if (shown) { shown.remove(); return; }
    const answer = await fetch(`/sandbox/effects?since=${effect.seq - 1}&limit=1`);
    const [whole] = await answer.json();
    card.append(el("pre", "raw", indent(whole?.body ?? "(gone)")));
  });
  const actions = card.querySelector(":scope > .actions") || card.appendChild(el("div", "actions"));
  actions.append(raw);
  card.searchable = `${effect.summary} ${effect.key} ${JSON.stringify(effect.detail)}`.toLowerCase();
  return card;
}

function indent(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

// --- columns, counters, filter

// Vendors that nothing has reached are one button, so that the others have room.
const HOLDINGS = "tables and files";
let showQuiet = false;
const quietCounter = button("", "counter quiet", () => { showQuiet = !showQuiet; arrange(); });

const NOTHING = {
  contacts: "Contacts appear here when a sync writes to the CRM.",
  channel: "Messages to the team appear here.",
  mail: "Emails to customers appear here.",
  hooks: "Signed webhooks appear here.",
  tickets: "Tickets that customers opened appear here.",
};

function layOut() {
  for (const vendor of vendors) {
    if (columns.has(vendor.name)) continue;
    const items = el("div", "items");
    const note = el("small");
    const empty = el("p", "empty", NOTHING[vendor.view] || "Nothing has arrived yet.");
    items.append(empty);
    const section = el("section", "column", el("h2", "", vendor.title, note), items);
    const counter = button("", "counter", () => setSolo(solo === vendor.name ? null : vendor.name));
    const parts = { name: el("span", "", vendor.title), total: el("b", "", "0"), recent: el("span", "recent"), more: el("span", "more") };
    parts.recent.title = "in the last minute";
    counter.append(el("span", "name", parts.name, parts.recent), el("span", "line", parts.total, parts.more));
    columns.set(vendor.name, { vendor, items, note, empty, section, counter, parts, counted: [], total: 0 });
    byId("columns").append(section);
    byId("counters").append(counter);
  }
  byId("counters").append(quietCounter);
}

function setSolo(name) {
  solo = name;
  arrange();
}

/** Which columns are seen: one alone, or all that something has reached. */
function arrange() {
  const busy = [...columns.values()].filter((column) => column.total > 0);
  const isNarrow = window.matchMedia("(max-width: 760px)").matches;
  const alone = solo === null && isNarrow && busy.length ? busy[0].vendor.name : solo;
  byId("columns").classList.toggle("solo", alone !== null);
  let quiet = 0;
  // More vendors than fit beside each other stand in two rows, where the window is high enough.
  const shown = alone !== null ? 1 : showQuiet ? columns.size : busy.length;
  byId("columns").classList.toggle("many", shown * COLUMN_PX > byId("columns").clientWidth);
  for (const [key, column] of columns) {
    const isQuiet = column.total === 0 && !column.failing;
    quiet += isQuiet ? 1 : 0;
    column.counter.classList.toggle("on", key === alone);
    column.counter.setAttribute("aria-pressed", String(key === alone));
    column.counter.hidden = isQuiet && !showQuiet && key !== alone;
    column.section.classList.toggle("solo", key === alone);
    column.section.hidden = alone !== null ? key !== alone : isQuiet && !showQuiet;
  }
  quietCounter.hidden = quiet === 0;
  const names = [...columns.values()].filter((column) => column.total === 0).map((column) => column.vendor.title);
  quietCounter.replaceChildren(el("span", "name", showQuiet ? "Hide the quiet" : "Quiet"),
    el("span", "line", el("b", "", String(quiet)), el("span", "more", names.join(", "))));
  quietCounter.title = names.join(", ");
  quietCounter.setAttribute("aria-pressed", String(showQuiet));
  byId("nothing").hidden = busy.length > 0 || showQuiet || alone !== null;
}

/** What lies in tables and files; it came past this server, so it is looked up. */
async function showHoldings() {
  if (!columns.size) return; // the vendors come first
  const answer = await fetch("/sandbox/holdings");
  if (!answer.ok) return;
  const held = await answer.json();
  if (held.length && !columns.has(HOLDINGS)) {
    vendors.push({ name: HOLDINGS, title: "Tables and files", view: "holdings", path: "", limit: null });
    layOut();
  }
  const column = columns.get(HOLDINGS);
  const seen = JSON.stringify(held);
  if (!column || paused || column.seen === seen) return;
  column.seen = seen;
  column.total = held.reduce((sum, each) => sum + each.rows, 0) || held.length;
  column.parts.total.textContent = held.reduce((sum, each) => sum + each.rows, 0).toLocaleString();
  column.parts.more.textContent = held.map((each) => `${each.rows.toLocaleString()} ${each.name}`).join(" · ");
  column.parts.more.title = column.parts.more.textContent;
  column.empty.hidden = true;
  for (const card of column.items.querySelectorAll(":scope > .card")) card.remove();
  column.items.append(...held.map(holdingCard));
  arrange();
  applyFilter();
}

function holdingCard({ name, kind, rows, columns: names, last }) {
  const table = el("table", "", el("tr", "", names.map((each) => el("th", "", each))),
    last.map((row) => el("tr", "", row.map((value) => el("td", "", value)))));
  const card = el("article", "card", el("div", "top", el("span", "who", name), pill(kind, "quiet")),
    el("div", "sub", `${rows.toLocaleString()} rows${rows > last.length ? `, ${last.length} of them shown` : ""}`),
    el("div", "sheet", table));
  card.searchable = `${name} ${JSON.stringify(last)}`.toLowerCase();
  return card;
}

function addEffects(effects) {
  const perColumn = new Map();
  for (const effect of effects) {
    if (!columns.has(effect.destination)) continue;
    if (!perColumn.has(effect.destination)) perColumn.set(effect.destination, []);
    perColumn.get(effect.destination).push(effect);
  }
  for (const [name, list] of perColumn) {
    const column = columns.get(name);
    const fresh = list.slice(-KEEP).map((effect) => makeCard(effect, column.vendor.view));
    column.empty.hidden = true;
    // prepend one by one: the newest ends on top.
    for (const card of fresh) {
      if (!firstBatch) card.classList.add("new");
      column.items.prepend(card);
    }
    const cards = column.items.querySelectorAll(":scope > .card");
    for (const card of [...cards].slice(KEEP)) card.remove();
    const newest = fresh.at(-1);
    if (newest.openMail && openedMail !== null) {
      openedMail?.closeMail?.();
      newest.openMail();
      openedMail = newest;
    }
  }
  if (effects.length) applyFilter();
}

function applyFilter() {
  const wanted = byId("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  for (const column of columns.values()) {
    let shown = 0;
    const cards = column.items.querySelectorAll(":scope > .card");
    for (const card of cards) {
      card.hidden = !wanted.every((word) => card.searchable.includes(word));
      shown += card.hidden ? 0 : 1;
    }
    column.note.textContent = wanted.length ? `${shown} of the last ${cards.length}`
      : cards.length === KEEP ? `the last ${KEEP}` : "";
  }
}

/** How the total grew to what it is, as far as the last effects tell. */
function countedBefore(total, effects) {
  const first = total - effects.length;
  return [{ at: first && effects.length ? Date.parse(effects[0].at) : 0, total: first },
    ...effects.map((effect, place) => ({ at: Date.parse(effect.at), total: first + place + 1 }))];
}

const REFUSED = { 401: "401", 429: "429", 500: "500", 503: "503", 550: "550", 451: "451", 554: "554", cut: "cut off" };

function showStats({ stats, effects }) {
  for (const [name, column] of columns) {
    const counts = stats.destinations[name];
    if (!counts) continue;
    column.total = counts.total;
    if (!column.counted.length) column.counted = countedBefore(counts.total, effects.filter((effect) => effect.destination === name));
    if (column.counted.at(-1).total !== counts.total) column.counted.push({ at: Date.now(), total: counts.total });
    column.parts.total.textContent = counts.total.toLocaleString();
    const bad = Object.entries(counts.answers).filter(([answer]) => answer in REFUSED)
      .map(([answer, times]) => `${REFUSED[answer]} × ${times}`);
    column.failing = bad.length > 0;
    if (counts.duplicates) bad.unshift(`${counts.duplicates} arrived twice`);
    const actions = Object.entries(counts.actions)
      .map(([action, times]) => `${times.toLocaleString()} ${action.split("_").at(-1)}`).join(" · ");
    column.parts.more.replaceChildren(bad.length ? el("span", "bad", bad.join(" · ")) : actions);
    column.parts.more.title = [actions, ...bad].join(" · ");
  }
  arrange();
}

function tick() {
  for (const node of timeNodes) {
    if (node.isConnected) node.textContent = ago(node.dateTime);
    else timeNodes.delete(node);
  }
  const aMinuteAgo = Date.now() - RECENT_MS;
  for (const { counted, parts } of columns.values()) {
    while (counted.length > 1 && counted[1].at <= aMinuteAgo) counted.shift();
    if (!counted.length) continue;
    const number = counted.at(-1).total - counted[0].total;
    // The page is told the last effects only: when it was opened there may have been more.
    const isAll = counted[0].at <= aMinuteAgo;
    parts.recent.textContent = number ? `+${number.toLocaleString()}${isAll ? "" : " or more"}` : "";
  }
}

// --- faults and limits

const KINDS = {
  "429": ["Too many requests (429)", ["count", "retry_after"]],
  "500": ["Server error (500)", ["count"]],
  hang: ["Silence, then an answer", ["count", "seconds"]],
  reject_rows: ["Refuses certain rows", ["count", "match"]],
  timeout_after_effect: ["Does it, but never answers", ["count", "seconds"]],
  disconnect: ["Cuts the connection first", ["count"]],
  chaos: ["Chaos: a random mix", ["rate", "seed", "retry_after"]],
};

const SCENARIOS = {
  timeouts: "Everywhere: done, never answered", storm: "Everywhere: 429 and 500",
  half: "Everywhere: every second row refused", chaos: "Chaos everywhere",
};

async function send(method, path, body) {
  const answer = await fetch(path, {
    method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error((await answer.json()).error || answer.statusText);
}

async function switchOn(fault) {
  byId("fault-error").textContent = "";
  try { await send("POST", "/sandbox/faults", fault); }
  catch (error) { byId("fault-error").textContent = error.message; }
}

function showFaults(faults) {
  const opener = byId("open-faults");
  opener.textContent = faults.length ? `Faults (${faults.length} on)` : "Faults";
  opener.classList.toggle("alarm", faults.length > 0);
  byId("lamp-stop").setAttribute("opacity", faults.length ? "1" : ".35");
  byId("lamp-go").setAttribute("opacity", faults.length ? ".35" : "1");
  const titles = new Map(vendors.map((vendor) => [vendor.path, vendor.title]));
  const rows = faults.map((fault) => {
    const where = fault.path === "/" ? "Everywhere" : titles.get(fault.path) || fault.path;
    const left = fault.count === null ? `${fault.hits} so far` : `${fault.count - fault.hits} of ${fault.count} left`;
    const match = fault.match ? ` (${fault.match})` : "";
    return el("div", "row", el("strong", "", where), el("span", "", `${KINDS[fault.kind]?.[0] || fault.kind}${match}`), el("span", "sub", left),
      button("Switch off", "button", () => send("DELETE", `/sandbox/faults/${fault.id}`)));
  });
  byId("fault-list").replaceChildren(...(rows.length ? rows : [el("p", "", "Every vendor is well.")]));
  byId("limit-list").replaceChildren(...vendors.filter((vendor) => vendor.limit).map((vendor) => {
    const { requests, seconds, enabled } = vendor.limit;
    const toggle = button(enabled ? "Switch off" : "Switch on", "button",
      () => send("POST", "/sandbox/limits", { vendor: vendor.name, enabled: !enabled }));
    return el("div", "row", el("strong", "", vendor.title),
      el("span", "sub", `${requests} in ${seconds} s${vendor.view === "channel" ? " per channel" : ""}, ${enabled ? "on" : "off"}`), toggle);
  }));
  const select = byId("fault-path");
  if (select.options.length <= 1) {
    select.replaceChildren(...vendors.filter((vendor) => vendor.path).map((vendor) => new Option(vendor.title, vendor.path)), new Option("Everywhere", "/"));
  }
}

function prepareFaults() {
  const dialog = byId("faults"), form = byId("fault-form"), kind = byId("fault-kind");
  kind.append(...Object.entries(KINDS).map(([value, [title]]) => new Option(title, value)));
  const fit = () => {
    for (const label of form.querySelectorAll("[data-for]")) label.hidden = !KINDS[kind.value][1].includes(label.dataset.for);
  };
  kind.addEventListener("change", fit);
  fit();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = new FormData(form), fault = { kind: kind.value, path: given.get("path") };
    for (const name of KINDS[kind.value][1]) {
      const value = given.get(name);
      if (value !== "") fault[name] = name === "match" ? value : Number(value);
    }
    switchOn(fault);
  });
  byId("presets").append(
    button("CRM asks to slow down, 3 times", "button", () => switchOn({ kind: "429", path: "/hubspot", count: 3, retry_after: 2 })),
    button("Slack is down", "button", () => switchOn({ kind: "500", path: "/slack" })),
    button("Mail server takes it, then hangs up", "button", () => switchOn({ kind: "timeout_after_effect", path: "/smtp", count: 1 })),
    ...Object.entries(SCENARIOS).map(([name, title]) => button(title, "button",
      () => send("POST", `/sandbox/scenarios/${name}`, { seed: Math.floor(Math.random() * 1e6) }))),
    button("All well again", "button", () => send("DELETE", "/sandbox/faults")),
  );
  byId("open-faults").addEventListener("click", () => dialog.showModal());
  byId("close-faults").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

// --- the stream

const ORDER = ["contacts", "channel", "cards", "mail", "sms", "hooks", "audience", "tickets", "plain", "holdings"];

/** The busiest vendor of each kind, then the second ones, so that every kind is seen without scrolling. */
function inOrder(unsorted, counts) {
  const total = (vendor) => counts[vendor.name]?.total || 0;
  const kinds = [...new Set([...ORDER, ...unsorted.map((vendor) => vendor.view)])];
  const ranked = kinds.flatMap((kind, place) => unsorted.filter((vendor) => vendor.view === kind)
    .sort((a, b) => total(b) - total(a)).map((vendor, rank) => ({ vendor, rank, place })));
  return ranked.sort((a, b) => a.rank - b.rank || a.place - b.place).map(({ vendor }) => vendor);
}

function receive(snapshot) {
  // Columns keep the places that they had when the page was opened.
  vendors = inOrder(snapshot.vendors, snapshot.stats.destinations).concat(vendors.filter((vendor) => vendor.view === "holdings"));
  layOut();
  if (snapshot.stats.last_seq < lastSeq) { location.reload(); return; }
  const fresh = snapshot.effects.filter((effect) => effect.seq > lastSeq);
  lastSeq = Math.max(lastSeq, snapshot.stats.last_seq);
  if (paused) {
    held = held.concat(fresh).slice(-1000);
    byId("pause").textContent = held.length ? `Resume (${held.length} waiting)` : "Resume";
  } else {
    addEffects(fresh);
    if (firstBatch) showHoldings();
    firstBatch = false;
  }
  showStats(snapshot);
  showFaults(snapshot.faults);
  tick();
}

function setLive(on) {
  byId("live").classList.toggle("off", !on);
  byId("live").lastElementChild.textContent = on ? "live" : "reconnecting";
}

function connect() {
  const source = new EventSource(`/sandbox/stream?since=${lastSeq}`);
  source.addEventListener("open", () => setLive(true));
  source.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    setLive(false);
    // A closed source never tries again by itself (it does after a broken connection).
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  });
}

byId("filter").addEventListener("input", applyFilter);
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").classList.toggle("on", paused);
  byId("pause").textContent = paused ? "Resume" : "Pause";
  if (!paused) { addEffects(held); held = []; firstBatch = false; }
});
prepareFaults();
setInterval(tick, 1000);
setInterval(showHoldings, 5000);
window.addEventListener("resize", arrange);
receive(JSON.parse(byId("snapshot").textContent));
connect();
