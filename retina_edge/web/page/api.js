// Requests to the server. Addresses are relative, because a proxy may serve the page under a path.

export const streamAddress = (stream) => `api/streams/${encodeURIComponent(stream)}`;

// Fetch a response. Without a valid token, open the login page. An error has the server's reason as its message.
export async function request(path, options) {
  const response = await fetch(path, options);
  if (response.status === 401) location.assign("login");
  if (!response.ok) {
    const problem = await response.json().catch(() => null);
    throw new Error(problem?.detail ?? `${path}: ${response.status}`);
  }
  return response;
}

export async function fetchJson(path, options) {
  return (await request(path, options)).json();
}

// Send a change as JSON, and return the answer.
export function sendJson(method, path, body) {
  const content = body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return fetchJson(path, { method, ...content });
}
