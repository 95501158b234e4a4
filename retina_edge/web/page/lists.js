// Lists that change while they are shown.

// Show values in a list, and return their elements. A value that is shown already keeps its element, so that the focus
// and a click are not lost.
//   keyOf(value): a text that identifies a value.
//   make(value): a new element for a value.
export function showList(list, values, keyOf, make) {
  const shown = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = values.map((value) => {
    const item = shown.get(keyOf(value)) ?? make(value);
    item.dataset.key = keyOf(value);
    return item;
  });
  for (const item of shown.values()) if (!items.includes(item)) item.remove();
  let place = list.firstElementChild;
  for (const item of items) {
    if (item === place) place = place.nextElementSibling;
    else list.insertBefore(item, place);
  }
  return items;
}
