// Points on the frame of a stream: [x, y] from 0 to 1.

// Part of the frame that an arrow key moves by, alone and with Shift.
const STEP = 0.005, LONG_STEP = 0.05;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export const clamp = (value) => Math.round(1e4 * Math.min(1, Math.max(0, value))) / 1e4;

export const percent = ([x, y]) => ({ x: Math.round(100 * x), y: Math.round(100 * y) });

export const between = (one, other) => [clamp((one[0] + other[0]) / 2), clamp((one[1] + other[1]) / 2)];

// Return how far a key moves a point; undefined if it is no arrow.
export const keyStep = ({ key, shiftKey }) => ARROWS[key]?.map((sign) => sign * (shiftKey ? LONG_STEP : STEP));

// Return points moved together, as far as all of them stay inside the frame.
export function shifted(points, by) {
  const limited = by.map((value, axis) => {
    const places = points.map((point) => point[axis]);
    return Math.min(1 - Math.max(...places), Math.max(-Math.min(...places), value));
  });
  return points.map((point) => point.map((value, axis) => clamp(value + limited[axis])));
}
