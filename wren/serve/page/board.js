// A board one can click. The server keeps nothing: all moves so far go there, the answer and the board come back.

const $ = (id) => document.getElementById(id);
const state = { moves: [], board: null, chosen: null, busy: false };

async function ask(moves) {
  state.busy = true;
  say("It thinks.");
  try {
    const response = await fetch("/v1/board", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ moves, seat: Number($("seat").value), budget: Number($("budget").value) }),
    });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error.message);
    state.board = found;
    state.moves = found.moves;
    state.chosen = null;
    draw();
  } catch (error) {
    say(error.message || "The server does not answer.", true);
  } finally {
    state.busy = false;
  }
}

function say(text, wrong = false) {
  $("says").textContent = text;
  $("says").classList.toggle("wrong", wrong);
}

function draw() {
  const board = state.board;
  $("game").textContent = board.game;
  if (!board.over) say("Your move.");
  else say(board.won > 0 ? "You have won." : board.won < 0 ? "You have lost." : "A draw.");
  drawCells(board);
  $("text").hidden = board.rows.length > 0;
  $("text").textContent = board.text;
  drawButtons(board);
  $("played").replaceChildren(...state.moves.map((name) => Object.assign(document.createElement("li"), { textContent: name })));
  $("back").disabled = !state.moves.length;
}

// what a click on a cell can mean: the move of its name, its column's, or the first half of one
function meaning(name, column) {
  const legal = state.board.legal;
  if (legal.includes(name)) return name;
  if (legal.includes(column)) return column;
  if (state.chosen && legal.includes(state.chosen + name)) return state.chosen + name;
  return null;
}

function drawCells(board) {
  const labelled = board.rows.some((row) => row.label);
  const count = board.columns.length;
  $("board").style.gridTemplateColumns = `${labelled ? "24px " : ""}repeat(${count}, minmax(0, 1fr))`;
  const parts = [];
  const signs = [...new Set(board.rows.flatMap((row) => row.cells))].filter((sign) => sign !== ".");
  const mine = ownSign(board);
  for (const row of board.rows) {
    if (labelled) parts.push(label(row.label));
    row.cells.forEach((sign, i) => {
      const cell = document.createElement("button");
      const name = board.columns[i] + row.label;
      cell.className = "cell";
      cell.type = "button";
      cell.textContent = sign === "." ? "" : sign;
      cell.setAttribute("role", "gridcell");
      cell.setAttribute("aria-label", `${name} ${sign === "." ? "empty" : sign}`);
      cell.dataset.name = name;
      if (signs.includes(sign)) cell.classList.add(sign === mine ? "mine" : "theirs");
      const starts = board.legal.some((move) => move.startsWith(name) && move !== name);
      if (meaning(name, board.columns[i]) || starts) cell.classList.add("can");
      if (state.chosen === name) cell.classList.add("chosen");
      cell.disabled = board.over;
      cell.addEventListener("click", () => click(name, board.columns[i], starts));
      parts.push(cell);
    });
  }
  if (board.rows.length) {
    if (labelled) parts.push(label(""));
    parts.push(...board.columns.map(label));
  }
  $("board").replaceChildren(...parts);
}

function ownSign(board) {
  const named = /You are (\w)/.exec(board.text);
  if (!named) return null;
  const signs = new Set(board.rows.flatMap((row) => row.cells));
  return signs.has(named[1]) ? named[1] : named[1].toLowerCase();
}

function label(text) {
  return Object.assign(document.createElement("span"), { className: "name", textContent: text });
}

function click(name, column, starts) {
  if (state.busy || state.board.over) return;
  const move = meaning(name, column);
  if (move) ask([...state.moves, move]);
  else if (starts) {
    state.chosen = state.chosen === name ? null : name;
    drawCells(state.board);
  } else say("That is no move here.");
}

function drawButtons(board) {
  const buttons = board.rows.length ? [] : board.legal.map((move) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: move });
    button.addEventListener("click", () => state.busy || ask([...state.moves, move]));
    return button;
  });
  $("moves").replaceChildren(...buttons);
}

// back to the person's own last turn
function takeBack() {
  const seat = Number($("seat").value);
  const own = state.moves.map((_, i) => i).filter((i) => i % 2 === seat);
  if (own.length && !state.busy) ask(state.moves.slice(0, own[own.length - 1]));
}

$("again").addEventListener("click", () => state.busy || ask([]));
$("seat").addEventListener("change", () => ask([]));
$("back").addEventListener("click", takeBack);
$("controls").addEventListener("submit", (event) => event.preventDefault());
ask([]);
