// Two pictures on one stage. How they lie over each other is the style sheet's to say, by data-mode; zoom and
// place are shared, so that the same spot of both is always under the eye.
const view = element.querySelector('.pair-view'), stage = element.querySelector('.pair-stage');
const range = element.querySelector('input');
let scale = 1, x = 0, y = 0, grip = null;

function load() {
  const value = props.value;
  view.hidden = !value;
  if (!value) return;
  view.dataset.mode = value.mode;
  ['one', 'other'].forEach((name, index) => {
    const figure = element.querySelector('.' + name), image = figure.querySelector('img');
    if (image.getAttribute('src') !== value[name]) image.src = value[name];
    image.alt = figure.querySelector('figcaption').textContent = value.names[index];
  });
}

function place() {
  x = Math.min(0, Math.max(1 - scale, x));  // in widths of a picture: its edges never leave those of the stage
  y = Math.min(0, Math.max(1 - scale, y));
  stage.style.setProperty('--zoom', `translate(${x * 100}%, ${y * 100}%) scale(${scale})`);
}

function frame(event) {
  const box = (event.target.closest?.('figure') || element.querySelector('.one')).getBoundingClientRect();
  return {across: (event.clientX - box.left) / box.width, down: (event.clientY - box.top) / box.height, box};
}

stage.addEventListener('wheel', event => {
  event.preventDefault();
  const {across, down} = frame(event), before = scale;
  scale = Math.min(16, Math.max(1, scale * Math.exp(-event.deltaY / 400)));
  x = across - (across - x) * scale / before;
  y = down - (down - y) * scale / before;
  place();
}, {passive: false});
stage.addEventListener('pointerdown', event => {
  grip = {x: event.clientX, y: event.clientY};
  stage.setPointerCapture(event.pointerId);
  slide(event);
});
stage.addEventListener('pointermove', event => {
  if (!grip) return;
  if (view.dataset.mode === 'slider' && scale === 1) return slide(event);
  const {width, height} = element.querySelector('.one').getBoundingClientRect();
  x += (event.clientX - grip.x) / width;
  y += (event.clientY - grip.y) / height;
  grip = {x: event.clientX, y: event.clientY};
  place();
});
['pointerup', 'pointercancel'].forEach(name => stage.addEventListener(name, () => { grip = null; }));
stage.addEventListener('dblclick', () => { scale = 1; x = y = 0; place(); });

function slide(event) {
  if (view.dataset.mode !== 'slider' || scale > 1) return;
  const box = stage.getBoundingClientRect();
  range.value = Math.min(100, Math.max(0, (event.clientX - box.left) / box.width * 100));
  split();
}

function split() {
  stage.style.setProperty('--split', `${range.value}%`);
}

range.addEventListener('input', split);
watch('value', load);
split();
place();
load();
