// Keys of the whole page. Those that are letters or arrows do nothing while something is being typed.
() => {
  const seen = selector => [...document.querySelectorAll(selector)].find(found => found.offsetParent && !found.disabled);
  const typing = event => event.target.closest('input, textarea, select, [contenteditable]');
  const chinese = navigator.language.toLowerCase().startsWith('zh');

  // Escape that closes a list or an enlarged picture is not meant for the job
  const leaving = event => event.target.closest('[role=combobox], [role=listbox]') || document.fullscreenElement
    || seen('.preview');

  function press(event, button) {
    if (!button) return;
    event.preventDefault();
    button.click();
  }

  // the picture before or after the chosen one in the grid of the gallery
  function turn(event, by) {
    const pictures = [...document.querySelectorAll('#gallery-grid .thumbnail-item')].filter(found => found.offsetParent);
    const chosen = pictures.findIndex(found => found.classList.contains('selected'));
    press(event, pictures[Math.min(Math.max(chosen + by, 0), pictures.length - 1)]);
  }

  document.addEventListener('keydown', event => {
    const dialog = document.querySelector('#shortcuts');
    if (event.isComposing || event.altKey) return;
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) press(event, seen('button.run'));
    else if (event.key === 'Escape' && !dialog?.open && !leaving(event)) press(event, seen('button.halt'));
    else if (typing(event)) return;
    else if (event.key === 'ArrowLeft') turn(event, -1);
    else if (event.key === 'ArrowRight') turn(event, 1);
    else if (event.key === '?' && dialog) {
      dialog.querySelector(`[lang=${chinese ? 'en' : 'zh'}]`).hidden = true;
      dialog.open ? dialog.close() : dialog.showModal();
    }
  }, true);
}
