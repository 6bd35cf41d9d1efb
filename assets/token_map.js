// The canvas of the workshop: a picture as its tokens, and the codebook beside it. It reports strokes on the
// picture as cells and choices in the codebook as codes; what comes of them is decided by the studio.
const part = name => element.querySelector(name);
const EDGE = 4;  // pixels of the canvas
const picture = new Image(), sheet = new Image();
let value = null, cell = 0, stroke = null, fresh = false, shown = 0;

function load() {
  value = props.value;
  if (!value) return;
  fresh = true;  // a stroke that is being drawn goes on: this answers an earlier one
  picture.onload = sheet.onload = draw;
  if (picture.src !== value.picture) picture.src = value.picture;
  if (sheet.src !== value.sheet.url) sheet.src = value.sheet.url;
  draw();
}

function draw() {
  if (!value || !picture.complete || !sheet.complete || !part('.map')) return;
  drawMap();
  drawBook();
  if (fresh) part('.token-map').dataset.shown = ++shown;
  fresh = false;
}

function drawMap() {
  const canvas = part('.map'), context = canvas.getContext('2d');
  cell = Math.max(value.factor, Math.floor(640 / Math.max(value.width, value.height)));
  canvas.width = cell * value.width;
  canvas.height = cell * value.height;
  // the picture may end within its last tokens
  const scale = cell / value.factor;
  context.drawImage(picture, 0, 0, picture.naturalWidth * scale, picture.naturalHeight * scale);
  if (value.coloured) {
    value.tokens.forEach((code, place) => {
      context.fillStyle = colour(code);
      context.fillRect(place % value.width * cell, Math.floor(place / value.width) * cell, cell, cell);
    });
  }
  context.strokeStyle = 'rgba(128, 128, 128, 0.35)';
  context.beginPath();
  for (let x = 0; x <= value.width; x++) { context.moveTo(x * cell, 0); context.lineTo(x * cell, canvas.height); }
  for (let y = 0; y <= value.height; y++) { context.moveTo(0, y * cell); context.lineTo(canvas.width, y * cell); }
  context.stroke();
  drawMarks(context);
  context.fillStyle = 'rgba(99, 102, 241, 0.6)';
  for (const [row, column] of stroke || []) context.fillRect(column * cell, row * cell, cell, cell);
}

// marks are an outline: what was drawn within them is to be seen in its own colours
function drawMarks(context) {
  const marked = new Set(value.marked);
  context.fillStyle = 'rgb(234, 88, 12)';
  for (const place of marked) {
    const column = place % value.width, x = column * cell, y = Math.floor(place / value.width) * cell;
    if (!marked.has(place - value.width)) context.fillRect(x, y, cell, EDGE);
    if (!marked.has(place + value.width)) context.fillRect(x, y + cell - EDGE, cell, EDGE);
    if (!column || !marked.has(place - 1)) context.fillRect(x, y, EDGE, cell);
    if (column === value.width - 1 || !marked.has(place + 1)) context.fillRect(x + cell - EDGE, y, EDGE, cell);
  }
}

function drawBook() {
  const canvas = part('.book'), context = canvas.getContext('2d'), side = value.factor;
  const rows = Math.ceil(value.order.length / value.columns);
  canvas.width = value.columns * side;
  canvas.height = rows * side;
  value.order.forEach((code, place) => {
    const x = place % value.columns * side, y = Math.floor(place / value.columns) * side;
    context.drawImage(sheet, ...patch(code), side, side, x, y, side, side);
    if (code === value.code) {
      context.strokeStyle = '#111';
      context.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
      context.strokeStyle = '#fff';
      context.strokeRect(x + 1.5, y + 1.5, side - 3, side - 3);
    }
  });
}

// as the engine's token map has it
function colour(code) {
  return `hsl(${code * 0.6180339887 % 1 * 360}, 65%, ${45 + 10 * (code % 3)}%)`;
}

function patch(code) {
  return [code % value.columns * value.factor, Math.floor(code / value.columns) * value.factor];
}

function place(canvas, event, columns, rows) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / box.width * columns);
  const row = Math.floor((event.clientY - box.top) / box.height * rows);
  return column < 0 || row < 0 || column >= columns || row >= rows ? null : [row, column];
}

function codeAt(canvas, event) {
  if (canvas.matches('.map')) {
    const found = place(canvas, event, value.width, value.height);
    return found && value.tokens[found[0] * value.width + found[1]];
  }
  const found = place(canvas, event, value.columns, Math.ceil(value.order.length / value.columns));
  return found && value.order[found[0] * value.columns + found[1]];
}

// every cell on the straight way from the last one: a quick stroke leaves no gaps
function reach(to) {
  const from = stroke[stroke.length - 1] || to;
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  for (let i = 1; i <= steps; i++) {
    const at = from.map((start, axis) => Math.round(start + (to[axis] - start) * i / steps));
    if (!stroke.some(([row, column]) => row === at[0] && column === at[1])) stroke.push(at);
  }
}

function tell(event) {
  const tip = part('.tip'), canvas = event.target, code = value && canvas.matches?.('canvas.map, canvas.book')
    ? codeAt(canvas, event) : null;
  tip.hidden = code === null || code === undefined;
  if (tip.hidden) return;
  const box = element.getBoundingClientRect(), small = tip.querySelector('canvas'), context = small.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(sheet, ...patch(code), value.factor, value.factor, 0, 0, small.width, small.height);
  tip.querySelector('span').textContent = code;
  tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - 90)}px`;
  tip.style.top = `${event.clientY - box.top + 14}px`;
}

element.addEventListener('pointerdown', event => {
  if (!value || event.button || !event.isPrimary || !event.target.matches('.map')) return;
  const found = place(event.target, event, value.width, value.height);
  if (!found) return;
  event.target.setPointerCapture(event.pointerId);
  stroke = [];
  reach(found);
  drawMap();
});
element.addEventListener('pointermove', event => {
  tell(event);
  const found = stroke && event.isPrimary && place(part('.map'), event, value.width, value.height);
  if (found) { reach(found); drawMap(); }
});
element.addEventListener('pointerup', event => {
  if (!stroke || !event.isPrimary) return;
  trigger('stroke', {cells: stroke, code: value.code});
  stroke = null;
  drawMap();
});
element.addEventListener('pointercancel', () => {
  stroke = null;
  if (value) drawMap();
});
element.addEventListener('pointerleave', () => { part('.tip').hidden = true; });
element.addEventListener('click', event => {
  const code = value && event.target.matches('.book') ? codeAt(event.target, event) : null;
  if (code === null || code === undefined) return;
  value.code = code;
  drawBook();
  trigger('choose', {code});
});
watch('value', load);
load();
