// The page: shows what `shape.js` and `stream.js` report, and sends what the user does to the server as ordinary writes.
// What the user did comes back the long way round, through Postgres, the sync server and the edge.

import { Shape } from "./shape.js";
import { Stream } from "./stream.js";

const MOST_EVENTS = 60;
const FADE = 600;
const $ = (id) => document.getElementById(id);
const WORDS = { connecting: "connecting", live: "live", waiting: "reconnecting", error: "error" };

function pill(element, state, title = "") {
  if (element.dataset.state !== state) element.textContent = WORDS[state];
  element.dataset.state = state;
  element.title = title;
}

// Postgres Sync

const rows = new Map(); // key -> {id, title, done, updated_at}
const elements = new Map(); // key -> <tr>
let settled = false; // false while the rows come for the first time, or all over again
let changes = 0;

function show(key, flash) {
  const row = rows.get(key);
  let tr = elements.get(key);
  if (!tr) {
    tr = document.createElement("tr");
    for (const name of ["id mono", "title", "done", "when"]) tr.append(Object.assign(document.createElement("td"), { className: name }));
    const box = Object.assign(document.createElement("input"), { type: "checkbox" });
    box.addEventListener("change", () => send(`rows/${row.id}`, { done: box.checked }, () => { box.checked = !box.checked; }));
    tr.children[2].append(box);
    elements.set(key, tr);
    place(tr, Number(row.id));
  }
  const [id, title, done, when] = tr.children;
  const isDone = row.done === "true" || row.done === "t";
  id.textContent = row.id;
  title.textContent = row.title;
  done.firstChild.checked = isDone;
  done.firstChild.setAttribute("aria-label", `${row.title} is done`);
  when.textContent = time(row.updated_at);
  when.title = row.updated_at;
  tr.classList.toggle("done", isDone);
  if (flash) restart(tr, flash);
}

function place(tr, id) {
  tr.dataset.id = String(id);
  const after = [...$("rows").children].find((other) => Number(other.dataset.id) < id);
  $("rows").insertBefore(tr, after ?? null);
}

function drop(key, fade) {
  const tr = elements.get(key);
  rows.delete(key);
  elements.delete(key);
  if (!tr) return;
  tr.classList.add("gone");
  setTimeout(() => tr.remove(), fade ? FADE : 0);
}

function restart(element, name) {
  element.classList.remove("added", "changed");
  void element.offsetWidth; // begins the animation anew
  element.classList.add(name);
}

const shape = new Shape("shape", {
  batch(list, position) {
    for (const { key, operation, value } of list) {
      if (operation === "delete") drop(key, true);
      else {
        const known = rows.has(key);
        rows.set(key, { ...rows.get(key), ...value });
        show(key, settled && (known ? "changed" : "added"));
      }
    }
    if (settled) changes += list.length;
    if (position.upToDate) settled = true;
    $("row-count").textContent = rows.size;
    $("change-count").textContent = changes;
    $("shape-offset").textContent = position.offset;
    $("no-rows").hidden = rows.size > 0;
  },
  reset() {
    settled = false;
    for (const key of [...rows.keys()]) drop(key, false);
  },
  state(word, request) {
    pill($("shape-status"), word, word === "live" ? "" : String(request));
    if (word === "live") $("shape-request").textContent = `GET /v1/shape?table=${tableName}&${request}`;
  },
});

// Durable Streams

let count = 0;

const stream = new Stream("stream", {
  messages(list, position) {
    const first = count === 0;
    for (const message of list.slice(-MOST_EVENTS)) {
      const li = document.createElement("li");
      const when = Object.assign(document.createElement("time"), { dateTime: message.at, textContent: time(message.at) });
      const kind = Object.assign(document.createElement("span"), { className: "kind", textContent: message.kind });
      kind.dataset.kind = message.kind;
      li.append(when, kind, Object.assign(document.createElement("span"), { className: "text", textContent: message.text }));
      if (!first) li.className = "added";
      $("events").prepend(li);
    }
    while ($("events").children.length > MOST_EVENTS) $("events").lastChild.remove();
    count += list.length;
    $("event-count").textContent = count;
    $("stream-offset").textContent = position.offset;
    $("no-events").hidden = count > 0;
  },
  reset() {
    count = 0;
    $("events").replaceChildren();
  },
  state(word, request) {
    pill($("stream-status"), word);
    $("stream-request").textContent = `GET ${streamPath}?${request}`;
  },
});

// Writing

async function send(path, body, undo) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }).catch(() => null);
  if (!answer?.ok) undo();
}

$("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = $("title");
  const title = input.value.trim();
  if (!title) return;
  input.value = "";
  await send("rows", { title }, () => { input.value = title; });
});

function time(text) {
  // Postgres writes "2026-11-23 06:00:00.123+00".
  const moment = new Date(text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00"));
  return Number.isNaN(moment.getTime()) ? text : moment.toLocaleTimeString([], { hour12: false });
}

let tableName = "";
let streamPath = "";
const leaving = new AbortController();
addEventListener("pagehide", () => leaving.abort());
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const config = await (await fetch("config.json")).json();
tableName = config.table;
streamPath = `${new URL(config.streams.url).pathname}/${config.stream}`;
$("table-name").textContent = config.table;
$("stream-name").textContent = config.stream;
shape.follow(leaving.signal);
stream.follow(leaving.signal);
