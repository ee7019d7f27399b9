// What the browser keeps: conversations, settings and colours in localStorage, the API key for this tab alone.
const PLACE = "wren.chats.1";

export const DEFAULTS = { temperature: 0.8, top_p: 1, top_k: null, max_tokens: null, seed: null };

function fresh() {
  return { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: "", system: "", turns: [] };
}

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE));
    if (Array.isArray(found?.conversations)) return found;
  } catch { /* what cannot be read is begun anew */ }
  return { conversations: [], current: null, settings: {}, theme: "system" };
}

export const state = read();
state.settings = { ...DEFAULTS, ...state.settings };

export function save() {
  while (true) {
    try {
      localStorage.setItem(PLACE, JSON.stringify(state));
      return;
    } catch {
      if (state.conversations.length < 2) return; // no room even for this one: it lives as long as the tab
      state.conversations.pop(); // the oldest
    }
  }
}

export function current() {
  const found = state.conversations.find((each) => each.id === state.current);
  return found ?? create();
}

export function create() {
  const empty = state.conversations.find((each) => !each.turns.length && !each.system);
  const made = empty ?? fresh();
  state.conversations = [made, ...state.conversations.filter((each) => each !== made)];
  state.current = made.id;
  save();
  return made;
}

export function remove(id) {
  state.conversations = state.conversations.filter((each) => each.id !== id);
  if (state.current === id) state.current = state.conversations[0]?.id ?? null;
  save();
}

export const key = {
  get: () => sessionStorage.getItem("wren.key") ?? "",
  set: (value) => sessionStorage.setItem("wren.key", value),
};
