// Requests to the server. Addresses are relative, because a proxy may serve the page under a path.

import { say } from "./words.js";

// A request that a dead connection would keep waiting is given up after this time.
const LONGEST_MS = 20_000;

export const streamAddress = (stream) => `api/streams/${encodeURIComponent(stream)}`;

// Fetch a response. Without a valid token, open the login page. An error has the server's reason as its message, and
// the status of the answer.
export async function request(path, options) {
  const response = await fetch(path, options).catch(() => { throw new Error(say("no-answer")); });
  if (response.status === 401) location.assign("login");
  if (!response.ok) {
    const problem = await response.json().catch(() => null);
    throw Object.assign(new Error(problem?.detail ?? `${path}: ${response.status}`), { status: response.status });
  }
  return response;
}

export async function fetchJson(path, options) {
  return (await request(path, { signal: AbortSignal.timeout(LONGEST_MS), ...options })).json();
}

// Send a change as JSON, and return the answer.
export function sendJson(method, path, body) {
  const content = body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return fetchJson(path, { method, ...content });
}
