// The page: draws the conversation that is open, and does what keys and buttons ask.
import { answer, model } from "./api.js";
import { DEFAULTS, create, current, key, remove, save, state } from "./store.js";
import { write } from "./text.js";

const $ = (id) => document.getElementById(id);
const log = $("log"), draft = $("draft"), side = $("side"), settings = $("settings");
const narrow = matchMedia("(max-width: 760px)"), dark = matchMedia("(prefers-color-scheme: dark)");
let running = null; // {abort, conversation} while an answer is written

function element(kind, classes = "", text = "") {
  const made = document.createElement(kind);
  made.className = classes;
  made.textContent = text;
  return made;
}

function button(text, act, title = "") {
  const made = element("button", "", text);
  made.type = "button";
  made.title = title;
  made.addEventListener("click", act);
  return made;
}

// the list of conversations

function drawList() {
  $("list").replaceChildren(...state.conversations.map((each) => {
    const item = element("li", each.id === current().id ? "current" : "");
    const name = each.title || "New conversation";
    const open = button(name, () => { show(each.id); menu(false); });
    open.className = "open";
    if (each.id === state.current) open.setAttribute("aria-current", "true");
    const bin = button("", () => { if (running?.conversation === each) stop(); remove(each.id); draw(); });
    bin.className = "remove";
    bin.setAttribute("aria-label", `Delete ${name}`);
    bin.innerHTML = '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M5 5l10 10M15 5 5 15"/></svg>';
    item.append(open, bin);
    return item;
  }));
}

function show(id) {
  state.current = id;
  save();
  draw();
}

function step(by) {
  const at = state.conversations.findIndex((each) => each.id === state.current);
  const next = state.conversations[at + by];
  if (next) show(next.id);
}

function menu(shown) {
  side.classList.toggle("shown", shown);
  $("shade").hidden = !shown;
  $("menu").setAttribute("aria-expanded", String(shown));
  if (shown) $("new").focus();
}

// the conversation

function draw() {
  const conversation = current();
  drawList();
  const turns = conversation.turns.map((turn, number) => drawTurn(conversation, turn, number));
  if (conversation.system) {
    const system = element("article", "turn system");
    system.append(element("div", "body", conversation.system));
    turns.unshift(system);
  }
  log.replaceChildren(...(turns.length ? turns : [welcome()]));
  log.scrollTop = log.scrollHeight;
  buttons();
}

function welcome() {
  const made = element("div", "empty");
  const bird = element("img");
  bird.src = "/icon.svg";
  bird.alt = "";
  made.append(bird, element("h2", "", "Say something"), element("p", "", "The wren answers."));
  return made;
}

function drawTurn(conversation, turn, number) {
  const writing = running?.turn === turn;
  const made = element("article", `turn ${turn.role}${writing ? " writing" : ""}`);
  const body = element("div", "body");
  if (turn.role === "assistant") write(body, turn.content.trimStart());
  else body.textContent = turn.content;
  const tools = element("div", "tools");
  const last = number === conversation.turns.length - 1;
  if (!writing && turn.role !== "error") tools.append(button("Copy", (event) => copy(event.target, turn.content)));
  if (!writing && turn.role === "user") tools.append(button("Edit", () => edit(conversation, number)));
  if (!writing && last && turn.role !== "user") tools.append(button("Answer anew", anew, "Alt+R"));
  if (turn.note) tools.append(element("span", "", turn.note));
  made.append(element("span", "hidden", { user: "You", assistant: "Wren", error: "Error" }[turn.role]), body, tools);
  return made;
}

async function copy(where, text) {
  try {
    await navigator.clipboard.writeText(text);
    where.textContent = "Copied";
  } catch {
    where.textContent = "The browser does not allow it";
  }
  setTimeout(() => { where.textContent = "Copy"; }, 1500);
}

function edit(conversation, number) {
  if (running) stop();
  draft.value = conversation.turns[number].content;
  conversation.turns.length = number;
  save();
  draw();
  grow();
  draft.focus();
}

function buttons() {
  $("stop").hidden = !running;
  $("send").hidden = Boolean(running);
  $("send").disabled = !draft.value.trim();
}

function grow() {
  draft.style.height = "auto";
  draft.style.height = `${draft.scrollHeight}px`;
  buttons();
}

// asking

function send() {
  const text = draft.value.trim();
  if (!text || running) return;
  const conversation = current();
  conversation.turns = conversation.turns.filter((turn) => turn.role !== "error");
  const before = conversation.turns.at(-1);
  if (before?.role === "user") conversation.turns.pop(); // it had no answer
  conversation.turns.push({ role: "user", content: before?.role === "user" ? `${before.content}\n${text}` : text });
  conversation.title ||= text.slice(0, 60);
  draft.value = "";
  grow();
  ask(conversation);
}

function anew() {
  const conversation = current();
  if (running || !conversation.turns.length) return;
  while (conversation.turns.length && conversation.turns.at(-1).role !== "user") conversation.turns.pop();
  if (conversation.turns.length) ask(conversation);
}

async function ask(conversation) {
  const system = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  const said = conversation.turns.filter((turn) => turn.content).map(({ role, content }) => ({ role, content }));
  const turn = { role: "assistant", content: "" };
  const own = running = { abort: new AbortController(), conversation, turn };
  conversation.turns.push(turn);
  draw();
  let drawn = false;
  const told = (piece) => {
    turn.content += piece;
    if (drawn) return;
    drawn = true; // at most once a frame
    requestAnimationFrame(() => { drawn = false; follow(conversation, turn); });
  };
  try {
    const found = await answer([...system, ...said], state.settings, own.abort.signal, told);
    turn.note = note(found);
  } catch (error) {
    if (error.name === "AbortError") turn.note = "stopped";
    else conversation.turns.push({ role: "error", content: error.message });
  }
  if (!turn.content) conversation.turns = conversation.turns.filter((each) => each !== turn);
  if (running === own) running = null;
  save();
  if (current() === conversation) draw();
}

function follow(conversation, turn) {
  if (running?.turn !== turn || current() !== conversation) return;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const body = log.querySelector(".writing .body");
  if (body) write(body, turn.content.trimStart());
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function note({ finish, usage, first, seconds }) {
  if (!usage) return "";
  const count = usage.completion_tokens, later = seconds - (first ?? 0);
  const speed = count > 1 && later > 0 ? `, ${Math.round((count - 1) / later)} a second` : "";
  const cut = finish === "length" ? ", cut at the most tokens" : "";
  return `${count} ${count === 1 ? "token" : "tokens"}${speed}${cut}`;
}

function stop() {
  running?.abort.abort();
}

// settings and colours

const RANGES = ["temperature", "top_p"], NUMBERS = ["top_k", "max_tokens", "seed"];

function fill() {
  $("system").value = current().system;
  $("key").value = key.get();
  for (const name of RANGES) {
    $(name).value = state.settings[name];
    $(`${name}-out`).value = Number(state.settings[name]).toFixed(2);
  }
  for (const name of NUMBERS) $(name).value = state.settings[name] ?? "";
}

function take() {
  current().system = $("system").value.trim();
  for (const name of RANGES) {
    state.settings[name] = Number($(name).value);
    $(`${name}-out`).value = state.settings[name].toFixed(2);
  }
  for (const name of NUMBERS) {
    const value = $(name).value;
    state.settings[name] = value === "" || !$(name).validity.valid ? null : Number(value);
  }
  save();
}

function openSettings() {
  if (settings.open) return;
  fill();
  settings.showModal();
}

function colours(next = state.theme ?? "system") {
  state.theme = next;
  document.documentElement.dataset.theme = next === "system" ? (dark.matches ? "dark" : "light") : next;
  $("theme").setAttribute("aria-label", `Colours: ${next === "system" ? "as the system" : next}`);
  save();
}

function turnColours() {
  const shown = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  colours(state.theme === "system" ? shown : shown === (dark.matches ? "dark" : "light") ? "system" : shown);
}

async function greet() {
  try {
    const found = await model();
    $("model").replaceChildren(found.id, element("small", "", `${found.context_len.toLocaleString("en")} tokens`));
    document.title = `${found.id} · Wren`;
  } catch (error) {
    $("model").replaceChildren("Wren", element("small", "", error.message));
  }
}

// keys

const KEYS = { n: () => { create(); draw(); draft.focus(); }, r: anew, s: openSettings, d: turnColours };
const MOVES = { ArrowUp: -1, ArrowDown: 1 };

function pressed(event) {
  if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const act = KEYS[event.code.replace("Key", "").toLowerCase()] ?? (MOVES[event.key] && (() => step(MOVES[event.key])));
    if (act) {
      event.preventDefault();
      act();
    }
  } else if (event.key === "Escape" && !settings.open) {
    if (side.classList.contains("shown")) menu(false);
    else stop();
  } else if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("textarea, input, dialog")) {
    event.preventDefault();
    draft.focus();
  }
}

document.addEventListener("keydown", pressed);
draft.addEventListener("input", grow);
draft.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => { KEYS.n(); menu(false); });
$("menu").addEventListener("click", () => menu(!side.classList.contains("shown")));
$("shade").addEventListener("click", () => menu(false));
$("theme").addEventListener("click", turnColours);
$("tune").addEventListener("click", openSettings);
settings.addEventListener("input", take);
settings.addEventListener("click", (event) => { if (event.target === settings) settings.close(); });
settings.addEventListener("close", () => { key.set($("key").value.trim()); draw(); greet(); draft.focus(); });
$("reset").addEventListener("click", () => { state.settings = { ...DEFAULTS }; save(); fill(); });
dark.addEventListener("change", () => colours());
narrow.addEventListener("change", () => menu(false));

colours();
state.conversations.length ? draw() : (create(), draw());
greet();
