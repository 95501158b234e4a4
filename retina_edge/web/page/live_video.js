// The frames of all streams arrive through one connection, because a browser opens at most six connections to a host.

const RETRY_MS = 1000, RETRY_IF_FULL_MS = 10_000;
const TRY_AGAIN_LATER = 1013; // the server has as many viewers as it allows

// Watch all streams while the page is visible. A hidden page gets no frames, which cost the server time.
//   onFrame(index, blob): a JPEG of the stream with this index.
//   onRegions(stream, revision): the regions of a stream have changed.
//   onOpen(): the connection is open; what happened before may have been missed.
//   onFull(): the server has too many viewers.
export function watch({ onFrame, onRegions, onOpen, onFull }) {
  const address = new URL("api/watch", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  let socket = null;

  function connect() {
    if (socket || document.hidden) return;
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = onOpen;
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        const { stream, revision } = JSON.parse(data).regions;
        onRegions(stream, revision);
      } else {
        onFrame(new DataView(data).getUint16(0), new Blob([data.slice(2)], { type: "image/jpeg" }));
      }
    };
    socket.onclose = ({ code }) => {
      socket = null;
      const full = code === TRY_AGAIN_LATER;
      if (full) onFull();
      setTimeout(connect, full ? RETRY_IF_FULL_MS : RETRY_MS);
    };
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) socket?.close();
    else connect();
  });
  connect();
}
