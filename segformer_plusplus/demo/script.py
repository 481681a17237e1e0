"""Holds what runs in the browser: stale results, the address, and names for screen readers."""

import json

from ..token_merging import PRESETS
from .strategies import sliders

_SLIDERS = json.dumps({preset: sliders(preset) for preset in PRESETS})

SCRIPT = (
    """
const known = SLIDERS
// an exported file has none
const slidersOf = preset => known[preset] ?? [{visible: false}, {visible: false}]
const page = {
  key: null,
  // what is chosen now: results of something else are stale, and the address says it
  now(image, preset, kv, q, sample) {
    page.key = JSON.stringify([image ? image.path : null, preset, kv, q])
    const query = new URLSearchParams({strategy: preset})
    for (const [name, value] of new URLSearchParams(location.search))
      if (name.startsWith('__')) query.set(name, value)
    if (slidersOf(preset)[0].visible) { query.set('kv', kv); query.set('q', q) }
    if (sample) query.set('sample', sample)
    history.replaceState(null, '', '?' + query)
    page.mark()
  },
  // at once: an answer of the server would overwrite what was chosen meanwhile
  follow(preset) {
    return slidersOf(preset).map(settings => ({__type__: 'update', ...settings}))
  },
  mark() {
    const shown = document.querySelector('.summary'), note = document.getElementById('stale')
    const old = Boolean(shown) && page.key !== null && shown.dataset.of !== page.key
    document.getElementById('results')?.classList.toggle('stale', old)
    if (note && note.hidden === old) note.hidden = !old
  },
  // on a phone, the result is below the button, which is named again
  arrived() {
    const place = document.getElementById('results')
    const failed = document.querySelector('.error:not([hidden])')
    if (!failed && place.getBoundingClientRect().top > 0.6 * innerHeight)
      place.scrollIntoView({behavior: 'smooth'})
    return 'Compare'
  },
  copy() {
    const said = text => { document.getElementById('copied').textContent = text }
    const failed = () => said('copy it from the address bar')
    if (!navigator.clipboard) return failed()
    navigator.clipboard.writeText(location.href).then(() => said('copied'), failed)
  },
  // what Gradio leaves without a name, or out of reach of the keyboard
  dress() {
    for (const group of document.querySelectorAll('#strategy')) {
      group.setAttribute('role', 'radiogroup')
      group.setAttribute('aria-label', group.querySelector('[data-testid=block-info]').textContent)
      for (const each of group.querySelectorAll('input')) each.name = 'strategy'
    }
    for (const each of document.querySelectorAll('#samples button:has(img)')) {
      each.setAttribute('aria-label', each.querySelector('img').alt)
      each.title = each.querySelector('img').alt
    }
    const label = document.getElementById('divider')?.textContent ?? ''
    const sides = label.match(/Left: (.+)\\. Right: (.+)\\./)?.slice(1) ?? ['', '']
    document.querySelectorAll('#pair [data-testid=imageslider-image]').forEach(
      (each, index) => { each.alt = `Prediction ${sides[index]}` })
  },
}
function watch() {
  const look = () => { page.dress(); page.mark() }
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true})
  look()
  const hide = event => {
    if (event.target.closest?.('.error')) return
    for (const each of document.querySelectorAll('.error')) each.hidden = true
    document.getElementById('copied')?.replaceChildren()
  }
  for (const kind of ['click', 'input', 'drop', 'paste'])
    document.addEventListener(kind, hide, true)
}
if (document.body) watch()
else addEventListener('DOMContentLoaded', watch)
"""
).replace('SLIDERS', _SLIDERS)
