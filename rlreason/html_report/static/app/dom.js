// Elements are made here and nowhere else. Children that are no elements become text nodes.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `options` holds `class`, `on` (events), `style` (custom properties and widths), attributes. */
function h(tag, options, ...children) {
  return fill(document.createElement(tag), options, children);
}

function svg(tag, options, ...children) {
  return fill(document.createElementNS(SVG, tag), options, children);
}

function fill(element, options, children) {
  for (const [name, value] of Object.entries(options || {})) {
    if (value == null || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    // Through the object model: the page's policy forbids style attributes.
    else if (name === "style") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(2).filter((child) => child != null && child !== false));
  return element;
}

function replace(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((child) => child != null && child !== false));
}

function byId(id) {
  return document.getElementById(id);
}

/** A heading with what there is to say beside it. */
function heading(title, aside, ...tools) {
  return h("div", { class: "heading" },
    h("h2", {}, title), aside && h("p", { class: "aside" }, aside), tools.length ? h("div", { class: "tools" }, tools) : null);
}

/** Buttons of which one is on. `choose` is called with its value. */
function segmented(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) => h("button", {
    type: "button", "aria-pressed": String(value === chosen), "data-value": value,
    on: { click: () => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === String(value)));
      choose(value);
    } },
  }, text));
  return h("div", { class: "segmented", role: "group", "aria-label": label }, buttons);
}

/** Text with its `parts in backquotes` set as code, as the doctor writes names of fields. */
function marked(text) {
  return text.split("`").map((part, odd) => (odd % 2 ? h("code", {}, part) : part));
}

function dot(run) {
  return h("span", { class: "dot", style: { "--c": `var(--run-${run % 12})` } });
}
