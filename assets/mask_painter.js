// The painter of masks. The mask has the picture's full resolution and is kept as a list of operations, so that any
// of them can be taken back; what is seen is a view of it at the size of the screen, drawn along with each stroke.
// WORDS, TOOLS and ACTS are written before this by `studio/mask_painter.py`.
const part = name => element.querySelector(name);
const COLOUR = 'rgb(236, 0, 200)';  // rare in photographs
const KEPT = 200;  // operations that can be taken back
const words = WORDS[navigator.language.startsWith('zh') ? 'zh' : 'en'];
const mask = document.createElement('canvas'), base = document.createElement('canvas');
let value = null, picture = null, operations = [], undone = [], stroke = null;
let tool = 'brush', size = 40, opacity = 0.55, hidden = false;
let view = {scale: 1, x: 0, y: 0}, grip = null, moving = false;
let pending = null, sending = null, timer = 0;  // the mask on its way to the studio
const hands = new Map();  // pointers that are down

// ---------------------------------------------------------------- what comes in

function load() {
  const before = value;
  value = props.value;
  element.hidden = !value;
  if (!value) { picture = null; return; }
  if (before && before.key === value.key && before.revision === value.revision) return;
  const same = before && before.key === value.key && picture;
  const next = same ? picture : new Image();
  const ready = async () => {
    const there = value.mask ? await fetched(value.mask.url) : null;
    if (same) {
      operate({kind: 'image', image: there});
    } else {
      picture = next;
      for (const canvas of [mask, base]) { canvas.width = next.naturalWidth; canvas.height = next.naturalHeight; }
      if (there) base.getContext('2d').drawImage(there, 0, 0);
      operations = []; undone = [];
      replay();
      size = Math.max(4, Math.round(Math.max(mask.width, mask.height) / 25));
      fit();
    }
  };
  if (same) ready();
  else { next.onload = ready; next.src = value.picture.url; }
}

// a grey mask as white that is as opaque as it is bright
async function fetched(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i];
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// ---------------------------------------------------------------- operations

function operate(operation) {
  apply(mask.getContext('2d'), operation);
  operations.push(operation);
  undone = [];
  if (operations.length > KEPT) apply(base.getContext('2d'), operations.shift());
  look();
  keep();
}

function replay() {
  const context = mask.getContext('2d');
  context.globalCompositeOperation = 'copy';
  context.drawImage(base, 0, 0);
  context.globalCompositeOperation = 'source-over';
  operations.forEach(operation => apply(context, operation));
}

function apply(context, operation) {
  const {width, height} = context.canvas;
  context.save();
  context.globalCompositeOperation = operation.erase ? 'destination-out' : 'source-over';
  context.fillStyle = context.strokeStyle = operation.colour || 'white';
  if (operation.kind === 'stroke') trace(context, operation);
  if (operation.kind === 'lasso') { outline(context, operation.points); context.fill(); }
  if (operation.kind === 'rectangle') {
    const [a, b] = [operation.points[0], operation.points[operation.points.length - 1]];
    const left = Math.floor(Math.min(a.x, b.x)), top = Math.floor(Math.min(a.y, b.y));
    context.fillRect(left, top, Math.ceil(Math.max(a.x, b.x)) - left, Math.ceil(Math.max(a.y, b.y)) - top);
  }
  if (operation.kind === 'invert') { context.globalCompositeOperation = 'xor'; context.fillRect(0, 0, width, height); }
  if (operation.kind === 'clear') context.clearRect(0, 0, width, height);
  if (operation.kind === 'image') {
    context.clearRect(0, 0, width, height);
    if (operation.image) context.drawImage(operation.image, 0, 0);
  }
  if (operation.kind === 'fill') flood(context, operation.points[0]);
  context.restore();
}

function trace(context, {points, size}) {
  context.lineCap = context.lineJoin = 'round';
  let before = points[0];
  for (const point of points.length > 1 ? points.slice(1) : points) {
    context.lineWidth = size * point.pressure;
    context.beginPath();
    context.moveTo(before.x, before.y);
    context.lineTo(point.x + (point === before ? 0.01 : 0), point.y);
    context.stroke();
    before = point;
  }
}

function outline(context, points) {
  context.beginPath();
  points.forEach(point => context.lineTo(point.x, point.y));
  context.closePath();
}

// everything that is reached from a place without crossing what is painted, and the soft edge of that
function flood(context, {x, y}) {
  const {width, height} = context.canvas, pixels = context.getImageData(0, 0, width, height);
  const painted = new Uint32Array(pixels.data.buffer), first = Math.floor(y) * width + Math.floor(x);
  const free = place => painted[place] >>> 24 < 128;
  if (!(x >= 0 && y >= 0 && x < width && y < height) || !free(first)) return;
  const waiting = [first];
  while (waiting.length) {
    let place = waiting.pop();
    if (!free(place)) continue;
    const row = place - place % width;
    let left = place, right = place;
    while (left > row && free(left - 1)) left--;
    while (right < row + width - 1 && free(right + 1)) right++;
    for (let at = left; at <= right; at++) {
      painted[at] = 0xffffffff;
      for (const next of [at - width, at + width]) {
        if (next < 0 || next >= painted.length) continue;
        if (!free(next)) painted[next] = 0xffffffff;
        else if (at === left || at === right || !free(next - 1)) waiting.push(next);
      }
    }
    if (left > row) painted[left - 1] = 0xffffffff;
    if (right < row + width - 1) painted[right + 1] = 0xffffffff;
  }
  context.putImageData(pixels, 0, 0);
}

function act(name) {
  if (!picture) return;
  if (name === 'undo' && operations.length) { undone.push(operations.pop()); replay(); look(); keep(); }
  if (name === 'redo' && undone.length) {
    const again = undone.pop();
    apply(mask.getContext('2d'), again);
    operations.push(again);
    look(); keep();
  }
  if (name === 'invert' || name === 'clear') operate({kind: name});
  if (name === 'fit') fit();
  if (name === 'save') save();
}

// white on black, as other programs take it
function save() {
  const sheet = document.createElement('canvas'), link = document.createElement('a');
  sheet.width = mask.width; sheet.height = mask.height;
  const context = sheet.getContext('2d');
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(mask, 0, 0);
  sheet.toBlob(blob => {
    link.href = URL.createObjectURL(blob);
    link.download = 'mask.png';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
}

// ---------------------------------------------------------------- what goes out

// The mask is sent a moment after the last stroke; `saved` does not wait for that moment.
function keep() {
  clearTimeout(timer);
  const operation = operations.length;
  pending = () => {
    pending = null;
    const file = new Promise(resolve => mask.toBlob(resolve)).then(blob => new File([blob], 'mask.png'));
    return sending = file.then(upload).then(sent => {
      const path = Array.isArray(sent) ? sent[0] : sent;
      props.value = value = {...value, painted: {path: path.path ?? path, meta: {_type: 'gradio.FileData'}}};
      part('.painter').dataset.saved = operation;
      return value;
    });
  };
  timer = setTimeout(() => pending?.(), 500);
}

// ---------------------------------------------------------------- what is seen

function fit() {
  const box = part('.easel').getBoundingClientRect();
  if (!picture || !box.width) return;
  const ratio = devicePixelRatio || 1;
  const high = Math.min(innerHeight * 0.7, box.width * mask.height / mask.width);
  for (const name of ['.picture', '.mask']) {
    const canvas = part(`.easel ${name}`);
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(high * ratio);
    canvas.style.height = `${high}px`;
  }
  const {width, height} = part('.easel .picture');
  const scale = Math.min(width / mask.width, height / mask.height);
  view = {scale, x: (width - mask.width * scale) / 2, y: (height - mask.height * scale) / 2};
  look(true);
}

function look(all) {
  if (!picture) return;
  if (all) {
    const context = cleared('.picture');
    context.imageSmoothingEnabled = view.scale < 2;
    context.drawImage(picture, 0, 0);
  }
  const context = cleared('.mask'), {width, height} = context.canvas;
  context.imageSmoothingEnabled = view.scale < 2;
  context.drawImage(mask, 0, 0);
  if (stroke) apply(context, stroke);
  context.resetTransform();
  context.globalCompositeOperation = 'source-in';
  context.fillStyle = COLOUR;
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = 'source-over';
  context.canvas.style.opacity = hidden ? 0 : opacity;
  const state = part('.painter').dataset;
  state.operations = operations.length;
  for (const [name, usable] of [['undo', operations.length], ['redo', undone.length]]) {
    part(`[data-act=${name}]`).disabled = !usable;
  }
}

function cleared(name) {
  const context = part(`.easel ${name}`).getContext('2d');
  context.resetTransform();
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  return context;
}

// a stroke goes on where it is, without looking at the whole mask again
function follow(from) {
  const context = part('.easel .mask').getContext('2d');
  context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  apply(context, {...stroke, points: stroke.points.slice(from), colour: COLOUR});
}

function place(event) {
  const canvas = part('.easel .picture'), box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  return {
    x: ((event.clientX - box.left) * ratio - view.x) / view.scale,
    y: ((event.clientY - box.top) * ratio - view.y) / view.scale,
    pressure: event.pointerType === 'pen' ? 0.2 + 1.6 * event.pressure : 1,
  };
}

function zoom(factor, event) {
  const canvas = part('.easel .picture'), box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
  factor = Math.min(32, Math.max(0.02, view.scale * factor)) / view.scale;
  view = {scale: view.scale * factor, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor};
  look(true);
}

function ring(event) {
  const canvas = part('.easel .picture'), box = canvas.getBoundingClientRect(), ring = part('.ring');
  const wide = size * view.scale * box.width / canvas.width;
  ring.hidden = !(tool === 'brush' || tool === 'eraser') || event.pointerType === 'touch';
  Object.assign(ring.style, {
    width: `${wide}px`, height: `${wide}px`, left: `${event.clientX - box.left}px`, top: `${event.clientY - box.top}px`,
  });
}

// ---------------------------------------------------------------- hands

const easel = part('.easel');
easel.addEventListener('pointerdown', event => {
  if (!picture || event.button > 1) return;
  event.preventDefault();
  part('.painter').focus({preventScroll: true});
  easel.setPointerCapture(event.pointerId);
  hands.set(event.pointerId, event);
  if (hands.size === 2) { stroke = null; grip = pinch(); look(); return; }
  moving = tool === 'hand' || event.button === 1;
  if (moving || hands.size > 1) return;
  const kind = tool === 'brush' || tool === 'eraser' ? 'stroke' : tool;
  stroke = {kind, points: [place(event)], size, erase: tool === 'eraser' || event.altKey};
  if (kind === 'stroke') follow(0);
});
easel.addEventListener('pointermove', event => {
  if (!picture) return;
  ring(event);
  const before = hands.get(event.pointerId);
  if (before) hands.set(event.pointerId, event);
  if (grip && hands.size === 2) {
    const now = pinch();
    zoom(now.far / grip.far, now);
    pan(now.clientX - grip.clientX, now.clientY - grip.clientY);
    grip = now;
  } else if (before && moving) {
    pan(event.clientX - before.clientX, event.clientY - before.clientY);
  } else if (stroke && stroke.kind !== 'fill') {
    const from = stroke.points.length - 1;
    stroke.points.push(...(event.getCoalescedEvents?.() || [event]).map(place), place(event));
    if (stroke.kind === 'stroke') follow(from);
    else look();
  }
});
for (const name of ['pointerup', 'pointercancel']) {
  easel.addEventListener(name, event => {
    hands.delete(event.pointerId);
    if (hands.size < 2) grip = null;
    moving = false;
    const done = stroke;
    stroke = null;
    if (done && name === 'pointerup') operate(done);
    else if (done) look();
  });
}
easel.addEventListener('pointerleave', () => { part('.ring').hidden = true; });
easel.addEventListener('wheel', event => {
  if (!picture) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event);
}, {passive: false});

function pinch() {
  const [a, b] = hands.values();
  return {
    clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2,
    far: Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)),
  };
}

function pan(x, y) {
  const canvas = part('.easel .picture'), ratio = canvas.width / canvas.getBoundingClientRect().width;
  view.x += x * ratio;
  view.y += y * ratio;
  look(true);
}

// ---------------------------------------------------------------- tools and keys

function button(name, kind) {
  const made = document.createElement('button');
  made.type = 'button';
  made.dataset[kind] = name;
  made.textContent = words[name];
  part('.tools').append(made);
  made.addEventListener('click', () => kind === 'tool' ? take(name) : act(name));
}

function take(name) {
  tool = name;
  for (const made of element.querySelectorAll('.tools [data-tool]')) {
    made.setAttribute('aria-pressed', made.dataset.tool === name);
  }
  easel.dataset.tool = name;
}

function slider(name, low, high, now, set) {
  const label = document.createElement('label'), input = document.createElement('input');
  Object.assign(input, {type: 'range', min: low, max: high, step: 'any', value: now});
  label.append(words[name], input);
  label.dataset.slider = name;
  input.addEventListener('input', () => set(Number(input.value)));
  part('.tools').append(label);
  return input;
}

TOOLS.forEach(name => button(name, 'tool'));
ACTS.forEach(name => button(name, 'act'));
// even steps of the slider are even factors of the brush
slider('size', 0, 100, 50, share => resize(2 * (Math.max(mask.width, mask.height) / 4) ** (share / 100)));
slider('opacity', 0.1, 1, opacity, share => { opacity = share; look(); });
const hint = document.createElement('small');
hint.textContent = words.original;
part('.tools').append(hint);
take('brush');

function resize(now) { size = Math.min(Math.max(1, now), 4096); }

function typing() {
  return /^(input|textarea|select)$/i.test(document.activeElement?.tagName) && document.activeElement.type !== 'range';
}
document.addEventListener('keydown', event => {
  if (!picture || !element.isConnected || !element.offsetParent || typing()) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === 'z') {
    event.preventDefault();
    act(event.shiftKey ? 'redo' : 'undo');
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (key === '[' || key === ']') resize(size * (key === ']' ? 1.2 : 1 / 1.2));
  if (key === 'o' && !hidden) { hidden = true; look(); }
});
document.addEventListener('keyup', event => {
  if (event.key.toLowerCase() === 'o' && hidden) { hidden = false; look(); }
});

part('.painter').saved = async () => {
  clearTimeout(timer);
  await (pending ? pending() : sending);
  return value;
};
new ResizeObserver(() => { if (picture && !part('.easel .picture').width) fit(); }).observe(easel);
watch('value', load);
load();
