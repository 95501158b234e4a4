// Elements of SVG.

const NAMESPACE = "http://www.w3.org/2000/svg";

export function makeSvg(kind, attributes) {
  return setAttributes(document.createElementNS(NAMESPACE, kind), attributes);
}

export function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
