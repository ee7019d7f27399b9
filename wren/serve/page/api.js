// The server: which model it has, and answers as they come.
import { key } from "./store.js";

function headers() {
  const value = key.get();
  return { "Content-Type": "application/json", ...(value && { Authorization: `Bearer ${value}` }) };
}

async function refused(response) {
  let said = `The server answered ${response.status}.`;
  try {
    said = (await response.json()).error.message;
  } catch { /* an answer of something between us and the server */ }
  const wait = response.headers.get("Retry-After");
  return new Error(response.status === 401 ? `${said} Set it in the settings.` : wait ? `${said} (In ${wait} s.)` : said);
}

export async function model() {
  const response = await fetch("/v1/models", { headers: headers() });
  if (!response.ok) throw await refused(response);
  return (await response.json()).data[0];
}

// Yields the objects of a stream of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The server went away before the answer was complete.");
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

// Asks for the next turn; calls `told` with each piece of text. Returns {finish, usage, first, seconds}.
export async function answer(messages, settings, signal, told) {
  const set = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== null));
  const body = JSON.stringify({ ...set, messages, stream: true, stream_options: { include_usage: true } });
  const start = performance.now();
  const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal });
  if (!response.ok) throw await refused(response);
  const found = { finish: null, usage: null, first: null, seconds: 0 };
  for await (const each of events(response.body)) {
    if (each.error) throw new Error(each.error.message);
    const choice = each.choices[0];
    if (choice?.delta.content) {
      found.first ??= (performance.now() - start) / 1000;
      told(choice.delta.content);
    }
    found.finish = choice?.finish_reason ?? found.finish;
    found.usage = each.usage ?? found.usage;
  }
  found.seconds = (performance.now() - start) / 1000;
  return found;
}
