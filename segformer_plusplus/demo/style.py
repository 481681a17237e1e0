"""Holds how the page looks, beyond Gradio's theme."""

CSS = """
.swatch {display: inline-block; width: .9em; height: .9em; margin: 0 .4em 0 0; border: 1px solid;
  border-radius: 2px; vertical-align: -.1em}
.legend {list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3em 1.2em}
.value, .small {color: var(--body-text-color-subdued)}
.small {font-size: .85em}
.summary {font-size: 1.2em}
.times, .times tr, .times td, .times th {border: none !important}
.times {width: 100%; max-width: 30em}
.times td, .times th {padding: .25em .8em .25em 0; text-align: left; white-space: nowrap}
.times td:last-child {width: 60%}
.times td div {height: .8em; background: var(--color-accent); border-radius: 2px}
.stages {margin: 0; padding-left: 4.5em; font-size: .9em}
.stages li::marker {content: "stage " counter(list-item) "  "}
.block.words:not(:has(.prose > :not([hidden]))) {display: none}
.gradio-container {overflow: clip !important}
.dark {--color-accent: var(--primary-400)}
#results .image-frame img {width: 100%; max-height: 620px; object-fit: contain}
.block:has(#stale:not([hidden])) {position: sticky; top: .5rem; z-index: 20; overflow: visible}
.tab-container button {padding-inline: .7rem}
.said, #stale {padding: .5em .8em; border-left: 4px solid var(--color-accent);
  background: var(--background-fill-secondary); overflow-wrap: anywhere}
.said.error {border-color: var(--error-icon-color)}
#stale {font-weight: 600}
#results.stale .block:not(:has(#stale)) {opacity: .4}
#strategy label {width: 100%; align-items: flex-start}
#strategy input:not(:checked) {border-color: var(--neutral-500)}
#go {position: sticky; bottom: 0; padding-bottom: .5rem; z-index: 20; gap: 0;
  background: var(--body-background-fill)}
#samples .grid-container {grid-template-columns: repeat(3, minmax(0, 1fr))}
#samples .grid-wrap {max-height: 16rem; min-height: 0}
"""
