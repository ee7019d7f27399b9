// A model's words as elements: code in fences and between backquotes, bold between stars; nothing is ever HTML.
function inline(target, text) {
  for (const part of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    const kind = part.length > 2 && part.startsWith("`") ? "code" : part.length > 4 && part.startsWith("**") ? "strong" : null;
    if (!kind) {
      target.append(part);
      continue;
    }
    const element = document.createElement(kind);
    element.textContent = kind === "code" ? part.slice(1, -1) : part.slice(2, -2);
    target.append(element);
  }
}

export function write(target, text) {
  target.replaceChildren();
  text.split(/^```[^\n`]*\n?/m).forEach((part, number) => {
    if (number % 2 === 0) {
      inline(target, number ? part.replace(/^\n/, "") : part);
      return;
    }
    const block = document.createElement("pre");
    const code = document.createElement("code");
    code.textContent = part.replace(/\n$/, "");
    block.append(code);
    target.append(block);
  });
}
